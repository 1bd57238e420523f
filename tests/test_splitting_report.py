"""The page of a split: its manifest's figures, a verdict against the control, safe with any name."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.pruning.split import (
    Control,
    FusionEntry,
    Manifest,
    Options,
    Part,
    Placement,
    Whole,
)
from edgevit.report import splitting
from edgevit.report.splitting import render, standard_error, verdict
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

SECTIONS = ("accuracy", "parts", "devices", "reading")
LABELS = ("rows", "columns", "checks", "disc", "frame", "cross, upright")
HASH = "ab" * 32


def a_part(place, classes, **changes):
    part = Part(
        name=f"part-{place}",
        file=f"part-{place}.pt2",
        sha256=HASH,
        classes=classes,
        parameters=119_074,
        bytes=400_000 + 50_000 * place,
        macs=7_000_000 - 500_000 * place,
        bytes_sent=128 * place,
        accuracy=74.0 + place,
        accuracy_without=70.5 + place,
    )
    return part.model_copy(update=changes)


def a_placement(**changes):
    placement = Placement(
        device_of={"part-1": "camera", "part-2": "gateway"},
        seconds={"camera": 0.00325, "gateway": 0.003, "lamp": 0.0},
        latency=0.00325,
    )
    return placement.model_copy(update=changes)


def greedily():
    seconds = {"camera": 0.0, "gateway": 0.004, "lamp": 0.00275}
    return Placement(
        device_of={"part-1": "gateway", "part-2": "lamp"}, seconds=seconds, latency=seconds["gateway"]
    )


def a_manifest(**changes):
    manifest = Manifest(
        edgevit="0.1.0",
        model="patterns",
        classes=6,
        labels=LABELS,
        options=Options(keep=0.375, grouping="best", epochs=5, seed=7, images=2400, held_out=600),
        grouping="confusion",
        compared={"random": 78.25, "confusion": 79.5},
        whole=Whole(parameters=954_234, bytes=4_000_000, macs=20_000_000, accuracy=80.0),
        parts=(a_part(1, (0, 2, 5)), a_part(2, (1, 3, 4))),
        fusion=FusionEntry(file="fusion.safetensors", sha256=HASH, parameters=50_000, accuracy=79.0),
        control=Control(file="control.pt2", sha256=HASH, bytes=480_000, macs=6_500_000, accuracy=74.25),
        placement=a_placement(),
        greedy=greedily(),
    )
    return manifest.model_copy(update=changes)


def accurate(fused, control, held_out=600):
    found = a_manifest()
    return a_manifest(
        fusion=found.fusion.model_copy(update={"accuracy": fused}),
        control=found.control.model_copy(update={"accuracy": control}),
        options=found.options.model_copy(update={"held_out": held_out}),
    )


def a_summary(manifest=None, *, measured=True, machine=None):
    manifest = a_manifest() if manifest is None else manifest
    names = [part.name for part in manifest.parts]
    latency = {name: 0.25 + 0.0625 * place for place, name in enumerate(names)} | {"control": 0.1875}
    return {
        "version": 1,
        "edgevit": "0.1.0",
        "machine": machine or {"system": "Linux-6.6", "machine": "aarch64", "cores": 8, "python": "3.12.1"},
        # As it is read from the file: whatever a manifest may not say, no page needs to show.
        "manifest": Manifest.model_validate_json(manifest.model_dump_json()).model_dump(mode="json"),
        "format": "onnx" if measured else None,
        "whole_ms": 12.0 if measured else None,
        "latency": latency if measured else None,
    }


def bare():
    """One part, of classes without names, for no devices; nothing could be timed."""
    return a_summary(
        a_manifest(
            labels=None,
            grouping="random",
            compared=None,
            parts=(a_part(1, tuple(range(6)), accuracy_without=None),),
            placement=None,
            greedy=None,
        ),
        measured=False,
    )


def ten():
    """Ten parts for a thousand classes."""
    parts = tuple(
        a_part(place, tuple(range(100 * (place - 1), 100 * place)), accuracy_without=70.0 + abs(place - 4))
        for place in range(1, 11)
    )
    labels = tuple(f"kind {index}, also called {index}" for index in range(1000))
    return a_manifest(classes=1000, labels=labels, parts=parts, placement=None, greedy=None)


def named(name):
    """A name wherever models, classes, machines or devices have one."""
    placement = Placement(device_of={"part-1": name, "part-2": name}, seconds={name: 0.5}, latency=0.5)
    manifest = a_manifest(model=name, labels=(name,) * 6, placement=placement, greedy=placement)
    return a_summary(manifest, machine={"system": name, "machine": name, "cores": 1, "python": name})


def long_named():
    """The longest of names, of parts too, and more classes than are listed at once."""
    one, two = a_manifest().parts
    long = one.model_copy(update={"name": "a" * 300, "classes": tuple(range(6))})
    placement = a_placement(device_of={"a" * 300: LONG, "part-2": LONG}, seconds={LONG: 0.5}, latency=0.5)
    return a_summary(
        a_manifest(model=LONG, labels=(LONG,) * 6, parts=(long, two), placement=placement, greedy=placement)
    )


VARIANTS = {
    "plain": a_summary(),
    "bare": bare(),
    "one part, timed": {**a_summary(), "manifest": bare()["manifest"]},
    "parts, not timed": a_summary(measured=False),
    "ten parts": a_summary(ten()),
    "the control wins": a_summary(accurate(74.0, 79.0)),
    "close": a_summary(accurate(79.0, 79.5)),
    "no greedy placement": a_summary(a_manifest(greedy=None)),
    "long names": long_named(),
    **{f"hostile {index}": named(name) for index, name in enumerate(HOSTILE)},
}


# As they are typed.
TYPED = {ord("\N{MULTIPLICATION SIGN}"): "x", ord("\N{MINUS SIGN}"): "-", ord("\N{EN DASH}"): "-"}


def typed(text):
    return " ".join(text.translate(TYPED).split())


def text_of(summary):
    return typed(Page(render(summary)).text)


def verdict_of(manifest):
    return verdict(manifest.model_dump(mode="json"))


# --- the page as a document ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_is_whole_refers_to_nothing_outside_and_can_be_read_aloud(variant):
    text = render(VARIANTS[variant])
    page = Page(text)
    assert page.faults == []
    assert "://" not in text
    assert page.tags.count("script") == 0
    assert "Content-Security-Policy" in page.values("http-equiv")
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len(page.values("scope"))
    assert page.tags.count("svg") == sum(tag == "svg" and name == "role" for tag, name, _ in page.attributes)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name):
    page = Page(render(named(name)))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert page.tags == Page(render(named("plain"))).tags
    assert name in page.text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_links_are_to_the_sections_that_there_are(variant):
    page = Page(render(VARIANTS[variant]))
    links = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert links == ["figures", *(name for name in SECTIONS if name in page.values("id"))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_cell_or_fact_is_empty(variant):
    text = render(VARIANTS[variant])
    cells = re.findall(r"<(td|th|dd|dt)\b[^>]*>(.*?)</\1>", text, re.DOTALL)
    assert cells
    assert not [inside for _, inside in cells if not re.sub(r"<[^>]*>", "", inside).strip()]
    assert "None" not in Page(text).text


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_row_has_a_cell_for_every_column(variant):
    text = render(VARIANTS[variant])
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        titles, *rows = (re.findall(r"<t[hd]\b", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL))
        assert {len(row) for row in rows} == {len(titles)}


def test_the_template_is_shipped_with_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["setuptools"]["package-data"]["edgevit.report"]
    template = Path(splitting.__file__).with_name(splitting._TEMPLATE)
    assert template.is_file()
    assert any(template.match(pattern) for pattern in shipped)


# --- what it says -------------------------------------------------------------------------------------


def test_every_figure_appears_with_its_unit():
    text = text_of(a_summary())
    missing = [
        words
        for words in (
            "patterns", "2 parts for 6 classes",
            "Fused accuracy 79.00 % -1.00 points from the whole (80.00 %), on 600 images held out",
            "Largest part's size 0.500 MB 8.00 times smaller than the whole (4.00 MB): part-2",
            "Slowest part's latency 0.31x 3.75 ms beside the whole's 12.0 ms, in onnx, one thread",
            "this machine ( aarch64 , 8 cores): part-2",
            "Worst without one part 71.50 % -7.50 points from all parts: without part-1",
            "Size in all 1.15 MB (0.29x) : 0.950 MB of 2 parts, 0.200 MB of the fusion",
            "Parameters of the fusion 50.0 k (50,000)",
            "12.5 M (0.62x) in all; 6.50 M (0.33x) of the costliest part, part-1",
            "Sent for one image 384 bytes in all, at most 256 bytes by one part",
            "Classes 6, grouped by confusion",
            "on images learned from at random 78.25 %, by confusion 79.50 %",
            "Each part may keep 37.50 % of the whole's arithmetic and size",
            "Training 5 epochs, seed 7", "2,400 learned from, 600 held out",
            "One image counts for 0.17 points", "split and control is 2.44 points",
            "whole 80.00 %", "parts and fusion 79.00 %, -1.00 points", "control 74.25 %, -5.75 points",
            "without part-1 71.50 %, -8.50 points", "without part-2 72.50 %, -7.50 points",
            "part-1 rows ; checks ; cross, upright 75.00 % 71.50 % 0.450 MB (0.11x) 6.50 M (0.33x) "
            "128 bytes 0.25x",
            "part-2 columns ; disc ; frame 76.00 % 72.50 % 0.500 MB (0.12x) 6.00 M (0.30x) 256 bytes 0.31x",
            "parts and fusion all 6 79.00 % - 1.15 MB (0.29x) 12.5 M (0.62x) 384 bytes -",
            "control all 6 74.25 % - 0.480 MB (0.12x) 6.50 M (0.33x) - 0.19x",
            "whole all 6 80.00 % - 4.00 MB (1.00x) 20.0 M (1.00x) - 1.00x",
            "The slowest device, camera , takes 3.25 ms for one image",
            "The published way, largest first, takes 4.00 ms",
            "camera part-1 none 3.25 ms 0 ms", "gateway part-2 part-1 3.00 ms 4.00 ms",
            "lamp none part-2 0 ms 2.75 ms",
            "edgevit 0.1.0", "system Linux-6.6", "manifest.json",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == []


def test_what_there_is_nothing_to_say_about_is_not_there():
    page = Page(render(bare()))
    assert [name for name in SECTIONS if name in page.values("id")] == ["accuracy", "parts", "reading"]
    assert "tiles two" in page.values("class")
    assert "Latency was not measured" in page.text
    said, _ = page.text.split("How to read this Fused accuracy")
    for words in ("ithout", "missing", "grouped", "compared", "costliest", "in all,", "Devices", " ms"):
        assert words not in said
    assert "part-1 0 ; 1 ; 2 ; 3 and 2 more 0 ; 1 ; 2 ; 3 ; 4 ; 5 75.00 %" in page.text


@pytest.mark.parametrize(
    ("variant", "tiles"),
    [("plain", "tiles"), ("one part, timed", "tiles three"), ("parts, not timed", "tiles three")],
)
def test_as_many_tiles_stand_side_by_side_as_there_are(variant, tiles):
    page = Page(render(VARIANTS[variant]))
    assert tiles in page.values("class")
    assert page.values("class").count("tile") == (3 if "three" in tiles else 4)


def test_without_training_only_the_fusion_learned():
    options = a_manifest().options.model_copy(update={"epochs": 0})
    assert "Training of the fusion only, seed 7" in text_of(a_summary(a_manifest(options=options)))


def test_a_grouping_that_was_given_was_compared_with_none():
    text = text_of(a_summary(a_manifest(grouping="random", compared=None)))
    assert "grouped at random" in text
    assert "Groupings compared" not in text


def test_many_classes_are_a_few_names_and_all_of_them_on_request():
    page = Page(render(a_summary(ten())))
    assert page.tags.count("details") == page.tags.count("summary") == 10
    assert page.text.count("and 96 more") == 10
    first = "kind 0, also called 0 ; kind 1, also called 1 ; kind 2, also called 2 ; kind 3, also called 3"
    assert f"{first} and 96 more {first} ; kind 4" in page.text
    assert all(f"kind {index}, also" in page.text for index in range(1000))


def test_each_of_ten_parts_is_missed_once_and_the_worst_is_in_the_headline():
    text = text_of(a_summary(ten()))
    assert "Worst without one part 70.00 % -9.00 points from all parts: without part-4" in text
    (drawn,) = [
        value for value in Page(render(a_summary(ten()))).values("aria-label") if value.startswith("Top-1")
    ]
    assert [item.split()[0] for item in re.findall(r"part-\d+ \d", drawn)] == [
        f"part-{place}" for place in range(1, 11)
    ]


def test_a_part_can_be_as_large_as_the_whole():
    whole = a_manifest().whole.model_copy(update={"bytes": 500_000})
    assert "0.500 MB the same size as the whole (0.500 MB)" in text_of(a_summary(a_manifest(whole=whole)))


def test_where_the_published_way_finds_no_placement_that_is_said():
    text = text_of(VARIANTS["no greedy placement"])
    assert "The published way, largest first, finds no placement." in text
    assert "Parts, largest first" not in text
    assert "camera part-1 3.25 ms gateway part-2 3.00 ms lamp none 0 ms" in text


def test_several_parts_on_one_device_are_listed_together():
    one = Placement(device_of={"part-1": "pi", "part-2": "pi"}, seconds={"pi": 0.25}, latency=0.25)
    text = text_of(a_summary(a_manifest(placement=one, greedy=None)))
    assert "pi part-1, part-2 250 ms" in text


# --- the verdict --------------------------------------------------------------------------------------


def test_a_split_that_is_better_than_the_control_is_said_to_be_by_how_much():
    found = verdict_of(accurate(79.0, 74.25))
    assert found.word == "Better than the control"
    assert typed(found.sentence) == (
        "The split is better by 4.75 points than one device with the control, a single model for all "
        "classes in eight bits: 79.00 % fused against 74.25 %."
    )
    assert found.doubt is None


def test_where_the_control_wins_the_page_says_that_the_split_does_not_pay():
    found = verdict_of(accurate(74.0, 79.0))
    assert found.word == "No better than the control"
    assert typed(found.sentence) == (
        "One device with the control, a single model for all classes in eight bits, does better by "
        "5.00 points: 79.00 % against 74.00 % fused. The split does not pay at this cost."
    )
    assert found.doubt is None
    assert f"No better than the control {typed(found.sentence)}" in text_of(VARIANTS["the control wins"])


@pytest.mark.parametrize("control", [79.0, 78.996, 79.004])
def test_one_device_that_does_as_well_is_enough(control):
    found = verdict_of(accurate(79.0, control))
    assert found.state == "no-better"
    assert "does as well: 79.00 % against 79.00 % fused. The split does not pay" in typed(found.sentence)


def test_a_difference_that_so_many_images_cannot_tell_is_called_so():
    found = verdict_of(accurate(79.5, 79.0))
    assert found.word == "Too close to tell"
    assert "better by 0.50 points" in typed(found.sentence)
    assert typed(found.doubt) == (
        "600 images held out cannot tell apart what differs by less than 2.34 points, one standard error: "
        "which of the two is better may be chance."
    )
    assert typed(found.doubt) in text_of(a_summary(accurate(79.5, 79.0)))


def test_that_the_control_may_win_by_chance_makes_the_split_pay_no_more():
    found = verdict_of(accurate(79.0, 79.5))
    assert found.state == "no-better"
    assert "The split does not pay at this cost." in found.sentence
    assert "may be chance" in found.doubt


def test_more_images_tell_smaller_differences():
    assert verdict_of(accurate(79.5, 79.0, held_out=600)).state == "close"
    assert verdict_of(accurate(79.5, 79.0, held_out=60_000)).state == "better"


def test_two_that_are_never_wrong_are_equally_good():
    found = verdict_of(accurate(100.0, 100.0, held_out=18))
    assert found.state == "no-better"
    assert found.doubt is None


accuracies = st.floats(0, 100)


@given(accuracies, accuracies, st.integers(1, 100_000))
def test_the_standard_error_is_that_of_two_independent_shares(first, second, images):
    error = standard_error(first, second, images)
    assert error == standard_error(second, first, images)
    assert 0 <= error <= 100 * math.sqrt(0.5 / images)
    assert standard_error(first, second, 4 * images) == pytest.approx(error / 2)


@given(accuracies, accuracies, st.integers(1, 100_000))
def test_a_verdict_is_for_the_split_only_where_it_is_better(fused, control, images):
    manifest = a_manifest().model_dump(mode="json")
    manifest["fusion"]["accuracy"], manifest["control"]["accuracy"] = fused, control
    manifest["options"]["held_out"] = images
    found = verdict(manifest)
    assert (found.state == "no-better") == (fused - control < 0.005)
    assert ("The split does not pay at this cost." in found.sentence) == (found.state == "no-better")
    assert found.state != "close" or found.doubt is not None


# --- in a browser -------------------------------------------------------------------------------------


@in_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path):
    path, net_log = tmp_path / "report.html", tmp_path / "net.json"
    path.write_text(render(a_summary()), encoding="utf-8")
    dom, console = browse(path, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    page = Page(dom)
    assert console == []
    assert addresses_asked_for(net_log) == set()
    assert page.faults == []
    assert page.text == Page(path.read_text(encoding="utf-8")).text


@in_browser
@pytest.mark.parametrize("variant", ["plain", "bare", "ten parts", "long names"])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(variant, tmp_path):
    # Opened, the lists of classes count as well.
    text = render(VARIANTS[variant]).replace("<details>", "<details open>")
    assert widths_in_browser(text, tmp_path) == WIDTHS
