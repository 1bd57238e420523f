"""The page of a plan: its figures and pictures, whole in itself, safe with any name."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from edgevit.planning.modes import Work
from edgevit.planning.problem import Chain, Cut, Ensemble, Host, Problem, Segment, Wire
from edgevit.planning.simulation import timeline
from edgevit.report.planning import loss_in_words, render
from edgevit.report.schedules import gantt
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

from .test_simulation import planned


def a_problem(names=("camera", "board", "hub"), **choices) -> Problem:
    chain = Chain(
        tuple(Segment(f"s{i}", 1e6) for i in range(4)),
        tuple(Cut(f"c{i}", (Wire("fp32", 2e5),)) for i in range(5)),
    )
    hosts = [Host(name, (0.01 * (2 + i),) * 4, 2e6, 1e7) for i, name in enumerate(names)]
    return Problem(chain, tuple(hosts), source=names[0], sink=names[-1], **choices)


def an_ensemble() -> Work:
    problem = a_problem()
    roomy = replace(problem, hosts=tuple(replace(host, memory_bytes=1e9) for host in problem.hosts))
    return Work(roomy, Ensemble(roomy, (100.0,) * 4, 0.001))


def many() -> Work:
    chain = Chain((Segment("s", 1.0),), tuple(Cut(n, (Wire("fp32", 10.0),)) for n in ("in", "out")))
    return Work(Problem(chain, tuple(Host(f"h{i}", (1.0,)) for i in range(40))))


def named(name: str):
    plan = planned(Work(a_problem((f"{name}1", f"{name}2", f"{name}3"))))
    return plan.model_copy(update={"model": name, "verdict": name, "notes": (name,), "edgevit": name})


PLANS = {
    "pipeline": lambda: planned(Work(a_problem())),
    "ensemble": lambda: planned(an_ensemble(), "latency", modes=("ensemble",)),
    "replicas": lambda: planned(many()),
    "one device": lambda: planned(an_ensemble(), "latency", modes=("single",)),
    "long names": lambda: named(LONG),
    **{f"hostile {i}": lambda name=name: named(name) for i, name in enumerate(HOSTILE)},
}


@pytest.mark.parametrize("kind", PLANS)
def test_the_page_is_whole_and_refers_to_nothing_outside(kind):
    text = render(PLANS[kind]())
    page = Page(text)
    assert page.faults == []
    assert "://" not in text
    assert page.tags.count("script") == 0
    assert "Content-Security-Policy" in page.values("http-equiv")
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len(page.values("scope"))
    links = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert all(link in page.values("id") for link in links)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name):
    page = Page(render(named(name)))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert page.tags == Page(render(named("plain"))).tags
    assert name in page.text


def test_the_figures_are_those_of_the_plan():
    text = Page(render(PLANS["pipeline"]())).text.replace("\N{NO-BREAK SPACE}", " ")
    missing = [
        words
        for words in (
            "Between answers 40.0 ms", "25 images a second", "no pipeline plan is better",
            "onnx fp32 100.00 %",
            "Images come from camera", "Answers go to hub", "0.200 MB fp32", "camera has the images",
            "impossible: memory or pins: no device can run the whole model",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == []


def test_of_many_devices_some_are_drawn_and_the_others_counted():
    page = Page(render(PLANS["replicas"]()))
    assert "24 of 40 devices" in page.text
    assert "And 16 devices more, in the plan file" in page.text


def test_a_timeline_has_a_bar_for_all_that_is_computed_and_sent():
    plan = PLANS["pipeline"]()
    spans = timeline(plan, 2)
    drawn = str(gantt([task.device for task in plan.plan.tasks], spans))
    assert len(re.findall(r'class="bar shade-\d"', drawn)) == 2 * len(plan.plan.tasks)
    assert len(re.findall(r'class="wire shade-\d"', drawn)) == len(
        [s for s in spans if s.what in {"in", "out"}]
    )
    ends = [float(x) + float(w) for x, w in re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', drawn)]
    assert max(ends) == pytest.approx(100, abs=0.01)


def test_nothing_is_busy_twice_at_once():
    spans = timeline(PLANS["pipeline"](), 6)
    for key in {(span.what, span.name) for span in spans}:
        own = sorted((span.start, span.end) for span in spans if (span.what, span.name) == key)
        assert all(end <= start + 1e-12 for (_, end), (start, _) in itertools.pairwise(own))


def test_what_is_done_without_a_device_is_said():
    losses = {loss.device: loss_in_words(loss) for loss in PLANS["replicas"]().losses}
    assert losses["h1"] == "as without h0, the two exchanged"
    assert losses["h0"].startswith("replicas on h1, h2")


# --- in a browser -----------------------------------------------------------------------------------------


@in_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path):
    path, net_log = tmp_path / "plan.html", tmp_path / "net.json"
    path.write_text(render(PLANS["pipeline"]()), encoding="utf-8")
    dom, console = browse(path, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    assert console == []
    assert addresses_asked_for(net_log) == set()
    assert Page(dom).faults == []


@in_browser
@pytest.mark.parametrize("kind", ["pipeline", "ensemble", "long names"])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(kind, tmp_path):
    assert widths_in_browser(render(PLANS[kind]()), tmp_path) == WIDTHS
