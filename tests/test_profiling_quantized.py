"""Placements by measurement: what is tried, what is chosen, and what cannot be measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.files import resumable
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.profiling import quantized as measuring
from edgevit.profiling import relative as relative_module
from edgevit.profiling.quantized import (
    Candidate,
    MeasuredPlacement,
    layer_gains,
    measure_placement,
)
from edgevit.profiling.relative import relative
from edgevit.profiling.turns import medians_in_turns
from edgevit.profiling.unfinished import Unfinished
from edgevit.quant.levels import Level
from edgevit.quant.operators import is_layer, weight_of
from edgevit.quant.precision import bit_widths
from edgevit.quant.quantizing import quantize
from tests.rewrites.helpers import program_of

INPUTS, INTEGER = Level.INPUTS, Level.INTEGER
W8A8 = bit_widths("w8a8")
IMAGES = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)


def layers_of(program: Program, placement: MeasuredPlacement) -> dict[str, Level]:
    """The levels of the layers alone."""
    nodes = prepare_for_export(program).graph.nodes
    names = [node.name for node in nodes if is_layer(node)]
    return {name: placement.levels[name] for name in names if name in placement.levels}


@pytest.fixture(scope="module")
def few_runs():
    with pytest.MonkeyPatch.context() as patch:
        for module in (measuring, relative_module):
            patch.setattr(module, "medians_in_turns", functools.partial(medians_in_turns, seconds=0))
        yield


@pytest.fixture(scope="module")
def measured(tiny_program, few_runs):
    pytest.importorskip("onnxruntime")
    return measure_placement(tiny_program, to="onnx", bits=W8A8)


@pytest.fixture
def ratios(monkeypatch):
    """Instead of measuring: an artefact takes as long as its float counterpart times what is said of it."""

    def unwritten(bench: measuring._Bench, _: Program, name: str) -> Path:
        return bench.folder / name

    def give(ratio: Callable[[Mapping[str, Level]], float]) -> None:
        monkeypatch.setattr(measuring._Bench, "_written", unwritten)
        monkeypatch.setattr(measuring._Bench, "ratio", lambda _, levels: ratio(levels))

    return give


class TestGains:
    """What each layer saves of what its region does."""

    def test_layers_share_their_regions_saving_by_the_size_of_their_weights(self, tiny_program, monkeypatch):
        monkeypatch.setattr(measuring, "_region", lambda _: "all")
        prepared = prepare_for_export(tiny_program)
        sizes = {
            node.name: weight_of(node).meta["val"].numel() for node in prepared.graph.nodes if is_layer(node)
        }
        candidate = Candidate("all", len(sizes), "INPUTS", 0.9, chosen=True)
        placement = MeasuredPlacement("onnx", 2.0, (candidate,), 0.9, dict.fromkeys(sizes, INPUTS))
        whole = sum(sizes.values())
        wanted = {name: pytest.approx(0.1 * 2.0 * size / whole) for name, size in sizes.items()}
        assert layer_gains(tiny_program, placement) == wanted

    def test_a_layer_that_stays_float_has_none(self, tiny_program):
        candidate = Candidate("linear on 16 tokens", 1, "INPUTS", 0.8, chosen=True)
        placement = MeasuredPlacement("onnx", 2.0, (candidate,), 0.8, {"linear": INPUTS})
        assert layer_gains(tiny_program, placement) == {"linear": pytest.approx(0.4)}

    def test_a_saving_within_the_noise_counts_as_the_smallest_that_is_not(self, tiny_program):
        candidate = Candidate("linear on 16 tokens", 1, "INPUTS", 1.3, chosen=True)
        placement = MeasuredPlacement("onnx", 2.0, (candidate,), 1.3, {"linear": INPUTS})
        assert layer_gains(tiny_program, placement) == {"linear": pytest.approx(0.01)}


class TestMeasuring:
    """Real files, timed; what is asserted does not depend on the times."""

    def test_every_region_has_its_candidates(self, measured):
        tried = [(item.region, item.layers, item.level) for item in measured.candidates]
        assert tried == [
            ("dense convolution at 4x4", 1, "INTEGER"),
            *(("linear on 16 tokens", 1, level) for level in ("INPUTS", "INTEGER")),
            *(("linear on one vector", 1, level) for level in ("INPUTS", "INTEGER")),
        ]
        assert measured.format == "onnx"
        assert measured.float_ms > 0
        assert all(item.ratio > 0 for item in measured.candidates)

    def test_in_tflite_only_a_linear_may_quantize_what_it_reads_as_it_runs(self, few_runs):
        pytest.importorskip("litert_torch")
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        program = program_of(nn.Sequential(*layers), (3, 8, 8))
        found = measure_placement(program, to="tflite", bits=W8A8)
        tried = [(item.region, item.layers, item.level) for item in found.candidates]
        assert tried == [
            ("dense convolution at 6x6", 1, "INTEGER"),
            ("linear on one vector", 1, "DYNAMIC"),
            ("linear on one vector", 1, "INTEGER"),
        ]
        assert found.format == "tflite"
        assert found.float_ms > 0
        assert all(item.ratio > 0 for item in found.candidates)

    def test_the_levels_are_taken_by_quantize(self, tiny_program, measured, few_runs):
        assert measured.levels
        result = quantize(tiny_program, IMAGES, levels=measured.levels, method="minmax")
        assert dict(result.levels) == dict(measured.levels)
        found = relative(tiny_program, result.program, "onnx")
        assert found.latency > 0
        assert found.size > 0

    def test_a_file_is_timed_as_often_as_every_other(self, tiny_onnx):
        assert len(medians_in_turns([tiny_onnx] * 3, seconds=0)) == 3

    def test_a_file_without_a_runtime_cannot_be_timed(self, tmp_path):
        with pytest.raises(EdgevitError, match="model.mlpackage cannot be timed on this machine"):
            medians_in_turns([tmp_path / "model.mlpackage"])


class TestChoosing:
    def test_every_region_has_the_level_that_gains_most(self, tiny_program, ratios):
        taken = {
            ("conv2d", INTEGER): 0.1,
            ("linear", INPUTS): -0.2,
            ("linear", INTEGER): -0.1,
            ("linear_1", INPUTS): -0.01,
            ("linear_1", INTEGER): 0.0,
        }
        ratios(lambda levels: 1 + sum(taken[item] for item in levels.items()))
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert [item.ratio for item in found.candidates] == pytest.approx([1.1, 0.8, 0.9, 0.99, 1.0])
        assert [item.chosen for item in found.candidates] == [False, True, False, True, False]
        assert found.ratio == pytest.approx(0.79)
        assert found.pays
        assert layers_of(tiny_program, found) == {"linear": INPUTS, "linear_1": INPUTS}

    def test_regions_that_pay_only_together_are_integers_together(self, tiny_program, ratios):
        ratios(lambda levels: 0.7 if set(levels.values()) == {INTEGER} and len(levels) == 3 else 1.2)
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert found.ratio == 0.7
        assert layers_of(tiny_program, found) == dict.fromkeys(["conv2d", "linear", "linear_1"], INTEGER)

    def test_a_kind_that_costs_time_among_integers_goes_back(self, tiny_program, ratios):
        # No region pays alone, and of all together the convolution costs something.
        def ratio(levels: Mapping[str, Level]) -> float:
            linears = {"linear", "linear_1"} <= levels.keys()
            return (0.8 if linears else 1.1) + 0.1 * ("conv2d" in levels)

        ratios(ratio)
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert found.ratio == 0.8
        assert layers_of(tiny_program, found) == dict.fromkeys(["linear", "linear_1"], INPUTS)

    def test_of_plans_about_as_fast_the_one_that_rounds_least_is_chosen(self, tiny_program, ratios):
        def ratio(levels: Mapping[str, Level]) -> float:
            return 1.5 - 0.33 * len(levels) + 0.01 * (levels.get("linear") == INPUTS)

        ratios(ratio)
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert found.ratio == pytest.approx(0.52)
        assert layers_of(tiny_program, found)["linear"] == INPUTS

    def test_what_rounds_less_and_is_slower_than_float_is_not(self, tiny_program, ratios):
        ratios(lambda levels: 0.98 if set(levels.values()) == {INTEGER} else 1.01)
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert found.ratio == 0.98
        assert found.pays

    def test_where_float_is_fastest_it_is_said(self, tiny_program, ratios):
        ratios(lambda levels: 1.0 + 0.2 * len(levels))
        found = measure_placement(tiny_program, to="onnx", bits=W8A8)
        assert not found.pays
        assert found.ratio > 1
        assert found.levels

    def test_excluded_layers_are_in_no_region(self, tiny_program, ratios):
        ratios(lambda _: 0.9)
        found = measure_placement(tiny_program, to="onnx", bits=W8A8, exclude=["qkv"])
        assert [item.region for item in found.candidates] == [
            "dense convolution at 4x4",
            *["linear on one vector"] * 2,
        ]
        assert "linear" not in found.levels

    def test_a_kind_gains_what_its_regions_gain_together(self):
        gains = {
            "linear on 16 tokens": {INPUTS: 0.02, INTEGER: 0.1},
            "linear on one vector": {INPUTS: 0.01, INTEGER: -0.2},
            "dense convolution at 4x4": {INTEGER: 0.5},
        }
        found = measuring._sums("linear", gains)
        assert found == pytest.approx({INPUTS: 0.03, INTEGER: -0.1})
        assert measuring._sums("dense convolution", gains) == {INTEGER: 0.5}

    @pytest.mark.parametrize(
        ("region", "kind"),
        [
            ("linear on 16 tokens", "linear"),
            ("linear on one vector", "linear"),
            ("depthwise convolution at 4x4", "depthwise convolution"),
        ],
    )
    def test_a_kind_has_no_resolution(self, region, kind):
        assert measuring._kind(region) == kind


class TestRefusals:
    def test_a_format_without_a_runtime_here(self, tiny_program):
        with pytest.raises(EdgevitError, match="--to: 'coreml' cannot be timed on this machine"):
            measure_placement(tiny_program, to="coreml", bits=W8A8)

    def test_float_activations(self, tiny_program):
        with pytest.raises(EdgevitError, match="with float activations there is nothing to place"):
            measure_placement(tiny_program, to="onnx", bits=bit_widths("w8"))

    def test_no_layer_left(self, tiny_program):
        pytest.importorskip("onnxruntime")
        with pytest.raises(EdgevitError, match="tiny has no layer to quantize after --exclude"):
            measure_placement(tiny_program, to="onnx", bits=W8A8, exclude=["*"])


class TestUnfinished:
    FOUND = MeasuredPlacement(
        "onnx",
        1.5,
        (Candidate("linear on 16 tokens", 2, "INPUTS", 0.9, chosen=True),),
        0.9,
        {"a": INPUTS, "b": INTEGER},
    )

    def test_what_was_measured_is_read_as_it_was(self, tmp_path):
        unfinished = Unfinished.beside(tmp_path / "y.pt2")
        assert unfinished.placement("a run") is None
        unfinished.keep("a run", self.FOUND)
        assert unfinished.placement("a run") == self.FOUND
        assert [path.name for path in tmp_path.iterdir()] == ["y.partial.json"]

    def test_another_run_measures_anew_where_nothing_was_learned(self, tmp_path):
        unfinished = Unfinished.beside(tmp_path / "y.pt2")
        unfinished.keep("a run", self.FOUND)
        assert unfinished.placement("another") is None
        unfinished.learned.write_text("learned")
        with pytest.raises(EdgevitError, match="y.partial was left by a run with another model"):
            unfinished.placement("another")

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"run": "a run", "placement": {"levels": 1}}'])
    def test_a_damaged_file_is_named(self, tmp_path, text):
        unfinished = Unfinished.beside(tmp_path / "y.pt2")
        unfinished.placed.write_text(text)
        with pytest.raises(EdgevitError, match=r"y.partial.json is no placement in progress; delete it"):
            unfinished.placement("a run")

    def test_it_is_left_by_an_interruption_alone(self, tmp_path):
        unfinished = Unfinished.beside(tmp_path / "y.pt2")
        for error, left in ((KeyboardInterrupt, True), (EdgevitError, False)):
            unfinished.keep("a run", self.FOUND)
            with pytest.raises(error), unfinished.kept_when_interrupted():
                assert unfinished.learned in resumable
                raise error
            assert unfinished.placed.exists() is left
        unfinished.keep("a run", self.FOUND)
        with unfinished.kept_when_interrupted():
            pass
        assert not unfinished.placed.exists()
        assert unfinished.learned not in resumable

    def test_it_is_plain_json(self, tmp_path):
        unfinished = Unfinished.beside(tmp_path / "y.pt2")
        unfinished.keep("a run", self.FOUND)
        assert json.loads(unfinished.placed.read_text())["placement"]["levels"] == {
            "a": "INPUTS",
            "b": "INTEGER",
        }
