"""The page of a profile: every figure with its unit, nothing empty, safe with any name, in a browser too."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edgevit.profiling.latency import LatencyProfile, Statistics
from edgevit.profiling.measurements import (
    Conditions,
    Energy,
    FellBack,
    OperatorTable,
    OperatorTime,
    Placed,
    Second,
    Sustained,
)
from edgevit.report import charts
from edgevit.report.profiling import render
from tests.pages import (
    HOSTILE,
    LONG,
    WIDTHS,
    Page,
    addresses_asked_for,
    browse,
    in_browser,
    widths_in_browser,
)

SECTIONS = ("latency", "sustained", "placed", "operators", "reading")


def bare(**changes) -> LatencyProfile:
    """What every device tells."""
    facts = {
        "artefact": "model.onnx",
        "device": "ssh://pi@raspberrypi",
        "runtime": "onnxruntime 1.22.0",
        "delegate": "CPUExecutionProvider",
        "requested": "CPUExecutionProvider",
        "threads": 4,
        "input_shape": (1, 3, 224, 224),
        "load_ms": 350.0,
        "first_ms": 25.0,
        "warm_up_ms": (21.0, 20.5),
        "samples_ms": tuple(20 + 0.01 * number for number in range(100)),
        "peak_memory_mb": 120.0,
        "working_set_mb": 88.0,
        "machine": "aarch64",
        "system": "Linux-6.6",
        "python": "3.11.2",
        "cores": 4,
        "energy_reason": "the system has no energy counter",
        "operators_reason": "LiteRT does not time operators",
    }
    return LatencyProfile(**{**facts, **changes})


def full(**changes) -> LatencyProfile:
    """With all there can be."""
    seconds = tuple(
        Second(float(at), 50 - at // 3, 1000.0, 20 + at / 3, 25 + at / 3, 50 + at / 3, 2400 - 10 * at)
        for at in range(60)
    )
    operators = (
        OperatorTime("conv", "Conv", "CPU", 12.0, "stem"),
        OperatorTime("view", "Reshape", "CPU", 0.0, "stem"),
        OperatorTime("linear", "MatMul", "CPU", 7.5, "blocks.0"),
    )
    facts = {
        "board": "Raspberry Pi 5",
        "processor": "Cortex-A76",
        "affinity": (0, 1, 2, 3),
        "requested": "XnnpackExecutionProvider",
        "before": Conditions({"cpu-thermal": 51.2}, (2400.0, 1500.0), ("ondemand",)),
        "after": Conditions({"cpu-thermal": 63.4}, None, None),
        "energy": Energy(10.0, 2.0, "RAPL: package-0"),
        "energy_reason": None,
        "placed": Placed(
            {"XnnpackExecutionProvider": {"Conv": 1}, "CPU": {"MatMul": 1}},
            (FellBack("MatMul", 1, "CPU", "its second factor is no matrix of weights"),),
        ),
        "operators": OperatorTable(operators, 4.6, 20.0),
        "operators_reason": None,
        "sustained": Sustained(seconds),
    }
    return bare(**{**facts, **changes})


def named(name) -> LatencyProfile:
    """A name wherever users, models, devices or runtimes give one."""
    return full(
        **dict.fromkeys(
            ("artefact", "device", "runtime", "delegate", "requested", "machine", "system", "board"), name
        ),
        processor=name,
        partial=name,
        before=Conditions({name: 50.0}, None, (name,)),
        energy=Energy(1.0, 1.0, name),
        placed=Placed({name: {name: 1}}, (FellBack(name, 1, name, name),)),
        operators=OperatorTable(
            (OperatorTime(name, name, name, 1.0, name), OperatorTime("b", "b", "b", 1.0, "b")), 0.0
        ),
    )


VARIANTS = {
    "bare": bare(),
    "full": full(),
    "partial": full(partial="the connection was lost", operators=None, operators_reason=None),
    "wide": bare(samples_ms=(1.0,) * 50 + (9.0,) * 50),
    "of a tool": bare(
        samples_ms=(),
        reported=Statistics(50, 20.0, 1.0, 19.0, 25.0),
        peak_memory_mb=None,
        working_set_mb=None,
    ),
    "one run": bare(samples_ms=(3.0,), warm_up_ms=()),
    "long names": named(LONG),
    **{f"hostile {index}": named(name) for index, name in enumerate(HOSTILE)},
}

TYPED = {ord("\N{MULTIPLICATION SIGN}"): "x", ord("\N{NO-BREAK SPACE}"): " ", ord("\N{EN DASH}"): "-"}


def page_of(profile: LatencyProfile) -> Page:
    return Page(render(profile.summary()))


def text_of(profile: LatencyProfile) -> str:
    return page_of(profile).text.translate(TYPED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_is_whole_and_refers_to_nothing_outside(variant):
    text = render(VARIANTS[variant].summary())
    page = Page(text)
    assert page.faults == []
    assert "http" not in page.text
    assert page.tags.count("script") == 0
    assert "Content-Security-Policy" in page.values("http-equiv")
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len(page.values("scope"))
    assert "None" not in page.text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_links_are_to_the_sections_that_there_are(variant):
    page = page_of(VARIANTS[variant])
    links = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert links == ["figures", *(name for name in SECTIONS if name in page.values("id"))]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name):
    page = page_of(named(name))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert page.tags == page_of(named("plain")).tags
    assert name in page.text


def test_every_figure_appears_with_its_unit():
    text = text_of(full())
    missing = [
        words
        for words in (
            "ssh://pi@raspberrypi (Raspberry Pi 5, 4 cores)", "Latency, median 20.5 ms over 100 runs",
            "21.0 ms at p99", "Cold load 350 ms then 25.0 ms for the first run", "Peak memory 120 MB 88.0 MB",
            "Speed retained 78.02 % after 60.0 s", "XnnpackExecutionProvider , CPUExecutionProvider",
            "4 threads on cores 0, 1, 2, 3", "1 x 3 x 224 x 224", "Cortex-A76", "Linux-6.6 , Python 3.11.2",
            "cpu-thermal 51.2 °C, 2 cores at 1500 to 2400 MHz, ondemand", "cpu-thermal 63.4 °C",
            "100 mJ a run, 5 W ( RAPL: package-0 )", "100 timed runs, milliseconds", "Temperature, °C",
            "MatMul 1 CPU its second factor is no matrix of weights",
            "Together 19.5 ms, 97.50 % of a whole run (20.0 ms, timed in turns",
            "conv Conv stem 12.0 ms", "about 4.6 µs",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == [], text


def test_a_partial_report_says_so_first():
    text = text_of(VARIANTS["partial"])
    assert "Partial The measurement ended before its end: the connection was lost" in text
    assert "They were not timed." in text


def test_figures_that_should_not_be_trusted_are_said_to_be():
    assert "Do not rely on these figures: the middle 80 %" in text_of(VARIANTS["wide"])


def test_what_a_tool_does_not_tell_is_not_made_up():
    text = text_of(VARIANTS["of a tool"])
    assert "Latency, mean 20.0 ms over 50 runs" in text
    assert "p50" not in text.replace("of p50", "")
    assert "what is the model's share is not known" in text


def test_values_over_time_keep_their_order_and_their_peaks():
    drawn = str(charts.over_time("Timed runs", "ms", [1.0] * 500 + [4.0] + [1.0] * 499, "run"))
    heights = [
        float(point.split(",")[1]) for point in drawn.split('points="')[1].split('"', maxsplit=1)[0].split()
    ]
    assert len(heights) == 200
    assert heights.index(min(heights)) == 100
    assert min(heights) == pytest.approx(100 - 100 / 1.1, abs=0.01)


@pytest.mark.parametrize("profile", [bare(), full()])
def test_the_page_can_be_made_of_the_json(profile):
    summary = json.loads(json.dumps(profile.summary()))
    assert render(summary) == render(profile.summary())
    assert dataclasses.replace(profile) == profile


@in_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path):
    path, net_log = tmp_path / "profile.html", tmp_path / "net.json"
    path.write_text(render(full().summary()), encoding="utf-8")
    dom, console = browse(path, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    page = Page(dom)
    assert console == []
    assert addresses_asked_for(net_log) == set()
    assert page.faults == []
    assert page.text == Page(path.read_text(encoding="utf-8")).text


@in_browser
@pytest.mark.parametrize("variant", ["full", "long names"])
def test_nothing_has_to_be_scrolled_to_sideways(tmp_path, variant):
    # Opened, the table counts as well.
    text = render(VARIANTS[variant].summary()).replace("<details ", "<details open ")
    assert widths_in_browser(text, tmp_path) == WIDTHS
