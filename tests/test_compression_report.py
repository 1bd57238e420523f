"""The page that `compress` writes: the figures of its JSON, nothing empty, safe with any name."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from edgevit import compression
from edgevit.compression import compress
from edgevit.profiling.quantized import Candidate, MeasuredPlacement
from edgevit.profiling.relative import Relative
from edgevit.quant.levels import Level
from edgevit.recipe import QuantizeRecipe
from edgevit.report import charts
from edgevit.report.compression import added_up, render
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

SECTIONS = ("remarks", "placement", "sensitivity", "blocks", "float", "channels", "reading")


def a_layer(index, **changes):
    layer = {"layer": f"linear_{index}", "module": f"blocks.{index}.qkv", "divergence": 0.2, "changed": 6.25}
    return {**layer, "divergence": 0.25 / (index + 1), **changes}


def a_candidate(**changes):
    candidate = {
        "region": "linear on 16 tokens",
        "layers": 12,
        "level": "INPUTS",
        "ratio": 0.75,
        "chosen": True,
    }
    return {**candidate, **changes}


def a_placement(**changes):
    placement = {
        "format": "onnx",
        "float_ms": 12.25,
        "ratio": 0.625,
        "candidates": [
            a_candidate(),
            a_candidate(level="INTEGER", ratio=0.875, chosen=False),
            a_candidate(region="dense convolution at 8x8", layers=1, level="INTEGER", ratio=0.9),
        ],
    }
    return {**placement, **changes}


def a_block(name, before, after, outcome):
    return {"block": name, "damage": before, "before": before, "after": after, "outcome": outcome}


def a_summary(**changes):
    summary = {
        "version": 1,
        "edgevit": "0.1.0",
        "machine": {"system": "Linux-6.6", "machine": "aarch64", "cores": 8, "python": "3.12.1"},
        "model": "a_vision_transformer",
        "precision": "w8a8",
        "engine": "edgevit",
        "method": "reconstruct",
        "program": "y.pt2",
        "recipe": "y.recipe.yaml",
        "images": 256,
        "labelled": True,
        "drop": 0.39,
        "format": "onnx",
        "latency_ratio": 0.62,
        "size_ratio": 0.27,
        "seconds": 150.0,
        "peak_memory_mib": 812.0,
        "widened": [],
        "kept_float": {
            "linear_1": "it does most of the damage",
            "conv2d": "--max-drop 1",
        },
        "smoothed": ["linear_2"],
        "equalized": ["conv2d_7"],
        "decomposed": {"linear_7": [41]},
        "remarks": ["stem: 3 of 16 output channels have only zero weights"],
        "sensitivity": [a_layer(2), a_layer(1), a_layer(0, module="")],
        "blocks": [
            a_block("stages.0", 0.02, 0.0125, "learned"),
            a_block("stages.1", 0.034, 0.034, "taken back"),
            a_block("head", 0.0, 0.0, "nothing to learn"),
        ],
        "placement": a_placement(),
    }
    return {**summary, **changes}


def bare(**changes):
    """What is measured of a Program with `--quantize w8 --to coreml`, and nothing else."""
    lists = {key: [] for key in ("smoothed", "equalized", "remarks", "sensitivity", "blocks")}
    lists["decomposed"] = {}
    unmeasured = {"placement": None, "format": None, "latency_ratio": None, "size_ratio": None}
    return a_summary(precision="w8", method="minmax", kept_float={}, **lists, **unmeasured, **changes)


def named(name):
    """A name wherever users, models or libraries give one."""
    return a_summary(
        model=name,
        program=name,
        recipe=name,
        machine={"system": name, "machine": name, "cores": 1, "python": name},
        kept_float={name: name},
        smoothed=[name],
        equalized=[name],
        decomposed={name: [0]},
        remarks=[name],
        sensitivity=[a_layer(0, layer=name, module=name)],
        blocks=[a_block(name, 1.0, 0.5, "learned")],
        placement=a_placement(candidates=[a_candidate(region=name)]),
    )


VARIANTS = {
    "plain": a_summary(),
    "bare": bare(),
    "unlabelled": a_summary(labelled=False, drop=1.5625),
    "many layers": a_summary(sensitivity=[a_layer(index) for index in range(60)]),
    "long names": named(LONG),
    **{f"hostile {index}": named(name) for index, name in enumerate(HOSTILE)},
}


# As they are typed.
TYPED = {ord("\N{MULTIPLICATION SIGN}"): "x", ord("\N{MINUS SIGN}"): "-", ord("\N{EN DASH}"): "-"}


def text_of(summary):
    return Page(render(summary)).text.translate(TYPED)


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


def test_every_figure_appears_with_its_unit():
    text = text_of(a_summary())
    missing = [
        words
        for words in (
            "w8a8", "8-bit weights, 8-bit activations", "2 layers left float",
            "0.39 points", "-0.39 points of top-1 from the float model", "on 256 calibration images",
            "0.62x", "one thread", "this machine ( aarch64 , 8 cores)", "0.27x",
            "256, labelled", "2 min 30 s", "812 MiB", "edgevit, reconstruct", "y.pt2", "y.recipe.yaml",
            "stem: 3 of 16 output channels have only zero weights",
            "linear on 16 tokens 12 INPUTS 0.75x chosen", "linear on 16 tokens 12 INTEGER 0.88x -",
            "dense convolution at 8x8 1 INTEGER 0.90x chosen",
            "would come to 0.65x", "takes 0.62x of float's 12.2 ms",
            "linear_0 0.25 6.25 % -", "blocks.1.qkv linear_1 0.12 6.25 % float",
            "Of 3 blocks, 1 learned something better", "no better was taken back (1)", "learns nothing (0)",
            "stages.0 0.02 0.02 0.013 learned",
            "stages.1 0.034 0.034 0.034 taken back", "head 0 0 0 nothing to learn",
            "blocks.1.qkv linear_1 it does most of the damage", "conv2d --max-drop 1",
            "smoothed blocks.2.qkv", "equalized conv2d_7", "apart linear_7",
            "edgevit 0.1.0", "system Linux-6.6",
        )
        if words not in text
    ]  # fmt: skip
    assert missing == []


def test_what_there_is_nothing_to_say_about_is_not_there():
    page = Page(render(bare()))
    assert [name for name in SECTIONS if name in page.values("id")] == ["reading"]
    assert page.tags.count("table") == page.tags.count("svg") == 0
    assert "8-bit weights, float activations" in page.text
    assert "Latency and size were not measured" in page.text
    assert "left float" not in page.text


def test_layers_that_read_16_bits_are_counted():
    assert "2 layers reading 16 bits" in text_of(a_summary(widened=["linear_1", "conv2d"]))


def test_without_labels_predictions_change():
    text = text_of(VARIANTS["unlabelled"])
    assert "Changed predictions 1.56 % of 256 calibration images" in text
    assert "points" not in text
    assert "without labels" in text


def test_accuracy_can_rise():
    text = text_of(a_summary(drop=-0.5))
    assert "-0.50 points +0.50 points of top-1 from the float model" in text


def test_nncf_has_a_method_of_its_own():
    assert "Engine nncf Program" in text_of(a_summary(engine="nncf", method=None))


def test_the_most_sensitive_layers_are_drawn_and_all_are_listed():
    page = Page(render(VARIANTS["many layers"]))
    (drawn,) = [value for value in page.values("aria-label") if value.startswith("Sensitivity: ")]
    assert [item.split()[0] for item in drawn.removeprefix("Sensitivity: ").split(", ")] == [
        f"blocks.{index}.qkv" for index in range(12)
    ]
    assert "the 12 most sensitive of 60 layers" in page.text
    assert "All 60 layers as a table" in page.text
    assert page.text.count("6.25 %") == 60


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-12])
def test_no_value_breaks_the_page(value):
    text = text_of(
        a_summary(
            sensitivity=[a_layer(0, divergence=value)],
            blocks=[a_block("stages.0", value, value, "taken back")],
        )
    )
    assert f"stages.0 {value:g} {value:g} {value:g} taken back" in text


def test_the_chosen_regions_gains_are_added():
    candidates = a_placement()["candidates"]
    assert added_up(candidates) == pytest.approx(1 - 0.25 - 0.1)
    assert added_up([]) == 1


def test_times_are_drawn_beside_floats():
    drawn = str(charts.time_dots([("float", 1.0, "1 ms"), ("a", 0.5, "0.50x"), ("b", 1.5, "1.50x")]))
    middle, left, right = (float(at) for at in re.findall(r'cx="([\d.]+)%"', drawn))
    assert left < middle < right
    assert left + right == pytest.approx(2 * middle, abs=0.01)


# --- as it is written ---------------------------------------------------------------------------------


@pytest.fixture
def written(tiny_program, image_folder, tmp_path, monkeypatch):
    """A compression with everything in it but the timing, which is made up."""
    candidate = Candidate("linear on 16 tokens", 1, "INPUTS", 0.8, chosen=True)
    placed = MeasuredPlacement("onnx", 1.0, (candidate,), 0.8, {"linear": Level.INPUTS})
    monkeypatch.setattr(compression, "measure_placement", lambda *_, **__: placed)
    monkeypatch.setattr(compression, "relative", lambda *_: Relative(0.5, 0.25))

    def write(calib=image_folder):
        return compress(
            tiny_program,
            calib=calib,
            output=tmp_path / "out" / "y.pt2",
            recipe=QuantizeRecipe(iterations=2),
        )

    pytest.importorskip("onnxruntime")
    return write


def test_the_page_has_the_figures_of_the_json(written):
    result = written()
    assert result.page.name == "y.compress.html"
    summary = json.loads(result.report.read_text(encoding="utf-8"))
    assert result.page.read_text(encoding="utf-8") == render(summary)
    assert (summary["model"], summary["precision"], summary["method"]) == ("tiny", "w8a8", "reconstruct")
    text = text_of(summary)
    assert "linear on 16 tokens 1 INPUTS 0.80x chosen" in text
    assert all(item["block"] in text for item in summary["blocks"])


def test_the_page_of_unlabelled_images(written, image_folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(image_folder.glob("*/*"))):
        shutil.copy(path, flat / f"{number}{path.suffix}")
    assert "Changed predictions" in Page(written(flat).page.read_text(encoding="utf-8")).text


def test_a_page_that_cannot_be_made_leaves_nothing(written, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr(compression, "render", fail)
    with pytest.raises(OSError, match="no space left"):
        written()
    assert not list((tmp_path / "out").glob("y.pt2"))


# --- in a browser -------------------------------------------------------------------------------------


@in_browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path):
    path, net_log = tmp_path / "y.compress.html", tmp_path / "net.json"
    path.write_text(render(a_summary()), encoding="utf-8")
    dom, console = browse(path, tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    page = Page(dom)
    assert console == []
    assert addresses_asked_for(net_log) == set()
    assert page.faults == []
    assert page.text == Page(path.read_text(encoding="utf-8")).text


@in_browser
@pytest.mark.parametrize("variant", ["plain", "bare", "long names"])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(variant, tmp_path):
    # Opened, the tables count as well.
    text = render(VARIANTS[variant]).replace("<details ", "<details open ")
    assert widths_in_browser(text, tmp_path) == WIDTHS
