"""The report page: whole, self-contained, safe with any name, and readable in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re
from html import escape

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from edgevit.export.placement import BackendPlacement, Fallback, KindCount, Placement
from edgevit.export.verify import OutputParity
from edgevit.profiling.latency import LatencyProfile
from edgevit.report import charts, figures
from edgevit.report.document import (
    REPORT_VERSION,
    ArtefactSection,
    DataSection,
    MistakeSection,
    ModelSection,
    Report,
    StageSection,
)
from edgevit.report.html import parity_words, render, verdict, worst
from edgevit.report.pages import utc
from tests.pages import (
    ADDED,
    CSS,
    HOSTILE,
    LONG,
    WIDTHS,
    Page,
    addresses_asked_for,
    browse,
    in_browser,
    widths_in_browser,
)

PASSED = OutputParity("logits", 1.4e-6, 1.3e-6, 0.9999999, 115.7, 100.0, 1e-5, passed=True)
OUTSIDE = OutputParity("logits", 0.41, 3.2e-2, 0.99941, 28.9, 93.75, 1e-5, passed=False)
NOT_FINITE = OutputParity("logits", None, None, None, None, 12.5, 1e-5, passed=False)


def a_latency(**changes):
    samples = tuple(np.random.default_rng(0).gamma(3.0, 0.4, 500) + 12.0)
    profile = LatencyProfile(
        artefact="out/model.onnx",
        device="local",
        runtime="onnxruntime 1.30.0",
        delegate="CPUExecutionProvider",
        threads=4,
        input_shape=(1, 3, 224, 224),
        load_ms=187.0,
        first_ms=41.5,
        warm_up_ms=(15.5, 13.5, 13.25),
        samples_ms=samples,
        peak_memory_mb=143.0,
        working_set_mb=98.5,
        machine="aarch64",
        system="Linux-6.6",
        python="3.12.1",
        cores=8,
    )
    return dataclasses.replace(profile, **changes).summary()


def a_backend(**changes):
    backend = BackendPlacement(
        runtime="litert",
        via="GPU delegate",
        unit="gpu",
        release="LiteRT 2.0",
        basis="datasheet",
        total=60,
        taken=48,
        takes=(KindCount("CONV_2D", 48),),
        fallbacks=(Fallback("RESHAPE", 9, "rank 5 > 4"), Fallback("SLICE", 3, "rank 5 > 4")),
        partitions=7,
        otherwise="LiteRT's built-in kernels",
        loads=True,
    )
    return dataclasses.replace(backend, **changes)


def a_placement(**changes):
    placement = Placement(
        artefact="model.tflite",
        format="tflite",
        device=None,
        operators=(KindCount("CONV_2D", 48), KindCount("RESHAPE", 8), KindCount("TRANSPOSE", 4)),
        backends=(
            a_backend(),
            a_backend(via="XNNPACK", unit="cpu", basis="measurement", taken=60, fallbacks=(), partitions=1),
        ),
    )
    return dataclasses.replace(placement, **changes)


def an_artefact(**changes):
    artefact = ArtefactSection(
        file="model.onnx",
        format="onnx",
        precision="fp32",
        bytes=20_000_000,
        sha256="ab" * 32,
        options={"opset": 20},
        tools={"torch": "2.13.0"},
        outputs=(PASSED,),
        passed=True,
        runtime="onnxruntime 1.30.0",
        top1=79.25,
        top5=94.5,
        agreement=98.75,
        latency=a_latency(),
        placement=a_placement(),
    )
    return dataclasses.replace(artefact, **changes)


def a_mistake(index, **changes):
    mistake = MistakeSection(f"cat/{index}.png", "cat", "dog", 0.9 - index / 1000, 0.0625, model_agrees=True)
    return dataclasses.replace(mistake, **changes)


def a_report(**changes):
    report = Report(
        version=REPORT_VERSION,
        edgevit="0.1.0",
        created="2026-03-01T12:05:09+00:00",
        target=None,
        machine={"system": "Linux-6.6", "machine": "aarch64", "cores": 8, "python": "3.12.1"},
        model=ModelSection(
            name="a_vision_transformer",
            source="timm:a_vision_transformer",
            weights="weights.safetensors",
            weights_sha256="cd" * 32,
            licence="apache-2.0",
            images="short edge to 256 (bicubic), centre crop 224x224",
            input_shape=("batch", 3, 224, 224),
            classes=1000,
            parameters=5_717_416,
            macs=1_258_000_000,
            file="program.pt2",
            bytes=25_000_000,
            runtime="torch",
            top1=79.75,
            top5=94.25,
        ),
        data=DataSection("validation", 400, "class folders matched by name", ()),
        pipeline=(StageSection("capture", 3.0), StageSection("export and verify", 9.0)),
        artefacts=(an_artefact(),),
        mistakes=tuple(a_mistake(index) for index in range(3)),
    )
    return dataclasses.replace(report, **changes)


def with_model(report, **changes):
    return dataclasses.replace(report, model=dataclasses.replace(report.model, **changes))


def with_data(report, **changes):
    return dataclasses.replace(report, data=dataclasses.replace(report.data, **changes))


def a_picture():
    _, data = cv2.imencode(".png", np.full((8, 8, 3), 90, np.uint8))
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def rendered(report, pictures=24):
    return render(report, {mistake.file: a_picture() for mistake in report.mistakes[:pictures]})


def hostile_report():
    names = itertools.cycle(HOSTILE)
    report = a_report(
        target=next(names),
        machine={"system": HOSTILE[0]},
        pipeline=(StageSection(HOSTILE[0], 1.0), StageSection(HOSTILE[1], 2.0)),
        artefacts=tuple(
            an_artefact(
                file=name,
                options={name: name},
                tools={name: name},
                runtime=name,
                outputs=(dataclasses.replace(PASSED, name=name),),
                latency={**a_latency(device=name, delegate=name, system=name), "warning": name},
                placement=a_placement(
                    operators=(KindCount(f"CUSTOM:{name}", 1),),
                    backends=(a_backend(fallbacks=(Fallback(f"CUSTOM:{name}", 1, name),), via=name),),
                    unknown=(name,),
                ),
            )
            for name in HOSTILE
        ),
        mistakes=tuple(
            a_mistake(index, file=f"{name}/{index}", label=name, predicted=next(names))
            for index, name in enumerate(HOSTILE)
        ),
    )
    named = dict.fromkeys(("name", "source", "weights", "licence", "images", "file", "runtime"), HOSTILE[1])
    report = with_model(report, **named)
    return with_data(report, folder=HOSTILE[0], classes=HOSTILE[1], skipped=HOSTILE)


VARIANTS = {
    "plain": a_report(),
    "hostile": hostile_report(),
    "no mistakes": a_report(mistakes=()),
    "long names": a_report(
        artefacts=(an_artefact(file=LONG),),
        mistakes=(a_mistake(0, label=LONG, predicted=LONG, file=LONG),),
        pipeline=(StageSection(LONG, 1.0),),
    ),
    "skipped": with_data(
        a_report(), skipped=tuple(f"validation/{index}.jpg: truncated" for index in range(50))
    ),
    "several": a_report(
        target="Some phone",
        artefacts=(
            an_artefact(),
            an_artefact(file="model.tflite", outputs=(OUTSIDE, NOT_FINITE), passed=False, top1=70.0),
            an_artefact(file="model.mlpackage", outputs=(), passed=False, options={}, tools={}),
        ),
    ),
    "few classes": with_model(a_report(), classes=5, licence=None, weights="random"),
    "one run": a_report(artefacts=(an_artefact(latency=a_latency(samples_ms=(5.0,), warm_up_ms=())),)),
}


def text_of(report, pictures=24):
    return Page(rendered(report, pictures)).text


# --- the page as a document ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tag_is_closed_where_it_should_be(variant):
    assert Page(rendered(VARIANTS[variant])).faults == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_referred_to_outside_the_page(variant):
    text = rendered(VARIANTS[variant])
    page = Page(text)
    references = [value for name in ("src", "href", "srcset", "data") for value in page.values(name)]
    assert all(value.startswith(("#", "data:")) for value in references)
    assert "://" not in text
    assert "url(" not in CSS
    assert "@import" not in CSS
    assert page.tags.count("script") == 0


def test_links_within_the_page_lead_somewhere():
    page = Page(rendered(a_report()))
    identifiers = page.values("id")
    assert len(set(identifiers)) == len(identifiers)
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(identifiers)


@pytest.mark.parametrize("variant", VARIANTS)
def test_who_cannot_see_it_finds_landmarks_and_words_for_every_picture(variant):
    page = Page(rendered(VARIANTS[variant]))
    assert {"header", "main", "nav", "footer"} <= set(page.tags)
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len(page.values("scope"))
    assert page.tags.count("img") == len([value for value in page.values("alt") if value])
    # The stretched ones are parts of a drawing that has its words.
    kinds = {"role", "aria-hidden", "preserveaspectratio"}
    assert page.tags.count("svg") == sum(tag == "svg" and name in kinds for tag, name, _ in page.attributes)


# --- names that users choose --------------------------------------------------------------------------


def test_hostile_names_are_shown_as_text():
    text = rendered(hostile_report())
    page = Page(text)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "b" not in page.tags
    assert set(page.values("src")) == {a_picture()}
    for name in HOSTILE:
        assert name not in text.replace("\u202e", "") or name == escape(name)
        assert " ".join(name.split()) in page.text


def test_a_name_that_is_not_utf8_can_be_written():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    text = rendered(a_report(mistakes=(a_mistake(0, file=name),)))
    assert "caf\\udce9" in Page(text).text
    text.encode("utf-8")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(), min_size=1))
def test_no_name_changes_the_structure_of_the_page(name):
    def page_of(chosen):
        report = a_report(mistakes=(a_mistake(0, label=chosen, predicted=chosen, file=chosen),))
        return Page(rendered(with_model(report, name=chosen, source=chosen)))

    found, expected = page_of(name), page_of("plain")
    assert found.tags == expected.tags
    assert [item[:2] for item in found.attributes] == [item[:2] for item in expected.attributes]


# --- what it says -------------------------------------------------------------------------------------


def test_every_figure_appears_with_its_unit():
    text = text_of(a_report())
    latency, shape = a_latency(), " \N{MULTIPLICATION SIGN} ".join(["", "3", "224", "224"])
    missing = [
        words
        for words in (
            "79.25 %", "79.75 %", "94.50 %", "94.25 %", "98.75 %", "\N{MINUS SIGN}0.50 points", "400 images",
            *(figures.milliseconds(latency[f"{name}_ms"]).replace("\xa0", " ") for name in (
                "p50", "p90", "p95", "p99", "min", "max", "mean", "std", "first", "load"
            )),
            f"{round(100 * latency['spread'])} % of p50", "500 timed runs", "3 runs, 0.0423 s",
            "143 MB", "98.5 MB", "20.0 MB", "25.0 MB", "1.25 times smaller",
            "1.3e-06", "1e-05", "1.4e-06", PASSED.explain(), parity_words(PASSED),
            "onnxruntime 1.30.0", "CPUExecutionProvider", "4 threads", "4 of 8 cores", "aarch64",
            "batch" + shape, "1" + shape, "5.72 M (5,717,416)", "1.26 G (1,258,000,000)",
            "1,000", "weights.safetensors", "cd" * 32, "ab" * 32, "apache-2.0", "opset 20", "torch 2.13.0",
            "capture", "3.00 s", "export and verify", "9.00 s", "12.0 s",
            "validation", "class folders matched by name", "One image counts for 0.25 %",
            "edgevit 0.1.0", "2026-03-01 12:05 UTC", "python 3.12.1", "No file was skipped.",
            "90 %", "6 %", "cat/0.png", "Float model agrees",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == []


def test_where_operators_run_is_told_of_every_backend():
    text = text_of(a_report())
    missing = [
        words
        for words in (
            "60 operators of 3 kinds, 4 of them transposes: CONV_2D 48, RESHAPE 8, TRANSPOSE 4.",
            "litert, GPU delegate gpu 48 of 60 7", "RESHAPE 9: rank 5 > 4", "SLICE 3: rank 5 > 4",
            "What runs them: LiteRT's built-in kernels", "litert, XNNPACK cpu 60 of 60 1",
            "published by the runtime's makers (LiteRT 2.0)", "measured by running single operators",
            "not seen on a device",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == []


def test_a_backend_that_refuses_the_file_is_said_not_to_load_it():
    backend = a_backend(loads=False, partitions=0, otherwise="nothing: the session is refused")
    text = text_of(a_report(artefacts=(an_artefact(placement=a_placement(backends=(backend,))),)))
    assert "48 of 60 does not load" in text
    assert "What runs them: nothing: the session is refused" in text


def test_many_kinds_that_are_not_taken_are_counted_not_listed():
    fallbacks = tuple(Fallback(f"KIND_{index}", 1, "no such operator") for index in range(9))
    placement = a_placement(backends=(a_backend(fallbacks=fallbacks),))
    text = text_of(a_report(artefacts=(an_artefact(placement=placement),)))
    assert "KIND_5 1" in text
    assert "KIND_6 1" not in text
    assert "and 3 more; report.json lists them all" in text


def test_a_backend_without_a_table_and_an_artefact_that_was_not_looked_at_are_said_to_be_so():
    placement = a_placement(backends=(), unknown=("litert via New delegate",))
    text = text_of(a_report(artefacts=(an_artefact(placement=placement), an_artefact(placement=None))))
    assert "There is no table of what litert via New delegate takes." in text
    assert "Its operators were not looked at." in text


def test_the_bars_of_what_is_taken_are_as_long_as_they_say():
    drawn = str(charts.taken_bars([("GPU delegate (gpu)", 15, 60), ("nothing", 0, 0)]))
    assert 'width="25.000%"' in drawn
    assert "15 of 60" in drawn
    assert "Operators taken: GPU delegate (gpu) 15 of 60, nothing 0 of 0" in drawn


def test_the_verdict_is_in_words():
    assert "Verified model.onnx computes what the model computes, within tolerance." in text_of(a_report())
    failed = a_report(artefacts=(an_artefact(outputs=(OUTSIDE,), passed=False),))
    assert "FAILED model.onnx does not compute what the model computes: outside tolerance." in text_of(failed)
    assert "<title>a_vision_transformer: FAILED" in rendered(failed)


def test_the_worst_artefact_decides_the_verdict_and_each_is_named():
    found = verdict(VARIANTS["several"].artefacts)
    assert found.word == "FAILED"
    assert found.sentence == (
        "model.tflite does not compute what the model computes: outside tolerance. "
        "model.mlpackage was not compared with the model. "
        "model.onnx computes what the model computes, within tolerance."
    )


def test_an_artefact_that_was_not_compared_is_not_called_failed():
    text = text_of(a_report(artefacts=(an_artefact(outputs=(), passed=False),)))
    assert "Not verified model.onnx was not compared with the model." in text
    assert "FAILED" not in text
    assert "Verified" not in text


def test_the_headline_shows_the_output_furthest_from_its_tolerance():
    loose = dataclasses.replace(OUTSIDE, tolerance=1.0, passed=True)
    assert worst((PASSED, loose)) is PASSED
    assert worst((PASSED, OUTSIDE)) is OUTSIDE
    assert worst((OUTSIDE, NOT_FINITE, PASSED)) is NOT_FINITE


def test_each_kind_of_parity_is_explained():
    assert "to the bit" in parity_words(dataclasses.replace(PASSED, max_abs=0.0, rel=0.0, snr_db=None))
    assert parity_words(OUTSIDE).startswith("3,200 times the tolerance")
    assert "broken" in parity_words(NOT_FINITE)
    assert "not finite" in text_of(a_report(artefacts=(an_artefact(outputs=(NOT_FINITE,), passed=False),)))


def test_latency_of_another_machine_than_the_target_is_said_to_be_so():
    text = text_of(a_report(target="Some phone"))
    assert "Latency and memory were measured on this machine (aarch64, 8 cores)" in text
    assert "not on Some phone" in text
    assert "measured on this machine (aarch64, 8 cores), the one" not in text_of(a_report())


def test_latency_measured_on_the_target_needs_no_excuse():
    report = a_report(target="Some phone", artefacts=(an_artefact(latency=a_latency(device="some-phone")),))
    assert "there they will differ" not in text_of(report)
    assert "on some-phone (aarch64, 8 cores)" in text_of(report)


def test_an_unsteady_latency_is_marked_beside_the_figure():
    unsteady = a_latency(samples_ms=tuple(np.linspace(1.0, 3.0, 200)))
    text = text_of(a_report(artefacts=(an_artefact(latency=unsteady),)))
    assert "not steady" in text
    assert unsteady["warning"] in text
    assert "not steady" not in text_of(a_report())


def test_no_mistakes_are_said_to_be_none():
    text = text_of(a_report(mistakes=()))
    assert "None: model.onnx named every one of the 400 images rightly." in text
    assert "got wrong, the most confident" not in text


@pytest.mark.parametrize(("pictures", "said"), [(24, "24 of the 60 images"), (0, "0 of the 60 images")])
def test_the_number_of_images_shown_stands_beside_the_number_of_mistakes(pictures, said):
    text = rendered(a_report(mistakes=tuple(a_mistake(index) for index in range(60))), pictures)
    assert said in Page(text).text
    assert Page(text).tags.count("img") == pictures


def test_a_mistake_the_float_model_does_not_make_is_told_apart():
    mistake = a_mistake(0, model_agrees=False, confidence=0.9999, label_confidence=1e-5)
    text = text_of(a_report(mistakes=(mistake,)))
    assert "Float model disagrees" in text
    assert "over 99 %" in text
    assert "under 1 %" in text


def test_many_skipped_files_are_counted_and_the_first_named():
    text = text_of(VARIANTS["skipped"])
    assert "50 files skipped" in text
    assert "validation/7.jpg: truncated" in text
    assert "validation/8.jpg" not in text
    assert "and 42 more" in text
    assert "1 file skipped" in text_of(with_data(a_report(), skipped=("x.jpg: empty",)))


@pytest.mark.parametrize("classes", [2, 5])
def test_top5_is_left_out_where_it_says_nothing(classes):
    text = text_of(with_model(a_report(), classes=classes))
    assert "94.50 %" not in text
    assert "94.25 %" not in text
    assert "top-5 is left out" in text
    assert "94.50 %" in text_of(with_model(a_report(), classes=6))


def test_random_weights_and_a_missing_licence_are_said():
    text = text_of(VARIANTS["few classes"])
    assert "The weights are random" in text
    assert "not stated by the source" in text


def test_each_of_several_artefacts_has_its_own_figures():
    text = text_of(VARIANTS["several"])
    for file in ("model.onnx", "model.tflite", "model.mlpackage"):
        assert f"Parity of {file}" in text
    assert text.count("Latency, median") == 3
    assert "\N{MINUS SIGN}9.75 points" in text


def test_the_time_is_given_in_utc_wherever_it_was_written():
    assert utc("2026-03-01T14:05:09+02:00") == utc("2026-03-01T12:05:09") == "2026-03-01 12:05 UTC"


# --- figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [(9.996, "10.0"), (0.9996, "1.00"), (99.96, "100"), (999.6, "1,000"), (0.000123, "0.000123")],
)
def test_three_digits_stay_three_when_rounding_carries(value, said):
    assert figures.digits(value) == said


def test_sizes_are_compared_in_the_direction_they_differ():
    assert figures.size_ratio(100, 100) == "the same size"
    assert figures.size_ratio(0, 100) == "no size to compare with"


# --- colours ------------------------------------------------------------------------------------------

TEXT_ON = [
    ("ink", "page"), ("ink", "panel"), ("soft", "page"), ("soft", "panel"), ("accent", "page"),
    ("accent", "panel"), ("good", "good-tint"), ("good", "panel"), ("bad", "bad-tint"), ("bad", "panel"),
    ("warn", "warn-tint"),
]  # fmt: skip


def colours(block):
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))


def luminance(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_told_from_what_it_stands_on(theme):
    light, dark = CSS.split("@media screen and (prefers-color-scheme: dark)")
    palette = colours(light) if theme == "light" else colours(dark.split("@media")[0])
    poor = {}
    for text, ground in TEXT_ON:
        lighter, darker = sorted((luminance(palette[text]), luminance(palette[ground])), reverse=True)
        contrast = (lighter + 0.05) / (darker + 0.05)
        if contrast < 4.5:
            poor[text, ground] = contrast
    assert poor == {}


def test_every_colour_used_is_given_in_both_themes():
    light, dark = CSS.split("@media screen and (prefers-color-scheme: dark)")
    assert set(re.findall(r"var\(--([a-z-]+)\)", CSS)) == set(colours(light))
    assert set(colours(dark.split("@media")[0])) == set(colours(light))


# --- charts -------------------------------------------------------------------------------------------


def attributes_of(markup, tag, kind):
    page = Page(str(markup))
    assert page.faults == []
    found, current = [], None
    for owner, name, value in page.attributes:
        if owner == tag and name == "class":
            current = {} if value == kind else None
            if current is not None:
                found.append(current)
        elif owner == tag and current is not None:
            current[name] = value
    return found


def share(text):
    return float(text.removesuffix("%"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300))
def test_histogram_bars_count_every_sample(samples):
    bars = attributes_of(charts.latency_histogram(samples, [("p50", samples[0])]), "rect", "bar")
    counts = [int(bar["data-count"]) for bar in bars]
    assert sum(counts) == len(samples)
    tallest = max(float(bar["height"]) for bar in bars)
    assert [float(bar["height"]) for bar in bars] == pytest.approx(
        [tallest * count / max(counts) for count in counts], abs=0.01
    )


def test_histogram_markers_stand_at_their_values_inside_the_chart():
    drawn = charts.latency_histogram([1.0, 2.0, 3.0], [("p50", 2.0), ("p99", 99.0)])
    assert [share(mark["x1"]) for mark in attributes_of(drawn, "line", "mark")] == [50.0, 100.0]
    assert "p50" in drawn
    assert "2.00\xa0ms" in drawn


def test_timeline_bars_are_as_long_as_their_stages_and_follow_each_other():
    drawn = charts.timeline([("capture", 3.0), ("export", 9.0), ("profile", 12.0)])
    spans = [(share(bar["x"]), share(bar["width"])) for bar in attributes_of(drawn, "rect", "bar")]
    assert spans == [(0.0, 12.5), (12.5, 37.5), (50.0, 50.0)]


def test_size_bars_are_proportional():
    bars = attributes_of(charts.size_bars([("a", 100, "100"), ("b", 25, "25"), ("c", 0, "0")]), "rect", "bar")
    assert [share(bar["width"]) for bar in bars] == [100.0, 25.0, 0.0]


def test_charts_of_nothing_measurable_are_still_drawn():
    for drawn in (charts.timeline([("a", 0.0)]), charts.size_bars([("a", 0, "0")])):
        assert [share(bar["width"]) for bar in attributes_of(drawn, "rect", "bar")] == [0.0]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_accuracies_keep_their_order_on_the_axis(values):
    scale = charts.accuracy_scale(values)
    assert 0 <= scale.low <= min(values) <= max(values) <= scale.high <= 100
    assert scale.high - scale.low >= 1
    at = [scale.share(value) for value in values]
    assert np.argsort(at, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()


def test_accuracy_dots_stand_on_the_scale():
    drawn = charts.accuracy_dots([("model", 80.0), ("a", 78.0), ("b", 82.0)])
    dots = attributes_of(drawn, "circle", "dot")
    (reference,) = attributes_of(drawn, "circle", "reference")
    assert share(dots[0]["cx"]) + share(dots[1]["cx"]) == pytest.approx(2 * share(reference["cx"]))
    assert "+2.00\xa0points" in drawn


def test_a_long_warm_up_keeps_its_slowest_runs():
    (line,) = attributes_of(charts.warm_up_strip(1.0, [1.0] * 4999 + [50.0], 1.0), "polyline", "line")
    heights = [float(point.split(",")[1]) for point in line["points"].split()]
    assert len(heights) <= 200
    assert heights[-1] == min(heights) == pytest.approx(100 - 100 / 1.1, abs=0.01)


def test_what_is_not_markup_is_escaped_in_a_chart():
    for drawn in (
        charts.timeline([(HOSTILE[0], 1.0), (HOSTILE[1], 1.0)]),
        charts.size_bars([(HOSTILE[2], 1, HOSTILE[0])]),
        charts.accuracy_dots([(HOSTILE[3], 1.0)]),
    ):
        assert isinstance(drawn, Markup)
        assert set(Page(str(drawn)).tags) <= {"svg", "g", "title", "text", "rect", "line", "circle"}


def test_long_names_are_shortened_beside_a_bar_and_whole_in_its_title():
    drawn = str(charts.timeline([(LONG, 1.0)]))
    assert f"<title>{LONG}: " in drawn
    assert f'y="13">{charts.short(LONG)}</text>' in drawn
    assert len(charts.short(LONG)) == 28


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_even_and_inside(low, width):
    ticks = charts.nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 8
    assert low - 1e-6 * width <= ticks[0]
    assert ticks[-1] <= low + width + 1e-6 * width


# --- in a browser -------------------------------------------------------------------------------------


@pytest.fixture
def page_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(rendered(VARIANTS["several"]), encoding="utf-8")
    return path


@in_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(page_file, tmp_path):
    net_log = tmp_path / "net.json"
    dom, console = browse(page_file, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    page = Page(dom)
    assert console == []
    assert addresses_asked_for(net_log) == set()
    assert page.faults == []
    assert page.text == text_of(VARIANTS["several"])


@in_browser
def test_a_browser_refuses_what_someone_adds_to_the_page(page_file, tmp_path):
    page_file.write_text(page_file.read_text(encoding="utf-8").replace("</body>", ADDED), encoding="utf-8")
    net_log = tmp_path / "net.json"
    dom, console = browse(page_file, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    assert 'id="changed"' not in dom
    assert addresses_asked_for(net_log) == set()
    assert sum("Content Security Policy" in line for line in console) == 2


@in_browser
def test_the_net_log_would_show_what_a_page_asks_for(tmp_path):
    page, net_log = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text(f"<!DOCTYPE html><body>{ADDED}", encoding="utf-8")
    dom, _ = browse(page, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    assert 'id="changed"' in dom
    assert addresses_asked_for(net_log) == {"http://127.0.0.1:9/x.png"}


@in_browser
def test_the_page_follows_the_readers_light_or_dark_setting(page_file, tmp_path):
    means = {}
    for theme, setting in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{theme}.png"
        scheme = f"--blink-settings=preferredColorScheme={setting}"
        browse(page_file, tmp_path, scheme, "--window-size=1000,1400", f"--screenshot={picture}")
        means[theme] = float(cv2.imread(str(picture)).mean())
    assert means["dark"] < 70
    assert means["light"] > 200


@in_browser
@pytest.mark.parametrize("variant", ["several", "long names", "hostile"])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(variant, tmp_path):
    assert widths_in_browser(rendered(VARIANTS[variant]), tmp_path) == WIDTHS
