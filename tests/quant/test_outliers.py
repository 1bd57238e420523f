"""Outlier channels are multiplied apart: the float model is the same, and the others have a finer grid."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.export import verify
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.graph.program import Program
from edgevit.quant import drafting
from edgevit.quant.folding import fold_factors
from edgevit.quant.levels import Level
from edgevit.quant.observation import Observed, observe
from edgevit.quant.outliers import can_decompose, decompose, outlier_channels, recompose
from edgevit.quant.quantizing import quantize
from tests.quant.helpers import all_named, images, logits, named, prepared, seeded
from tests.rewrites.helpers import assert_same_function, operators

HOT = (5, 41)


class Massive(nn.Module):
    """A hidden layer two of whose 64 channels reach a hundred times further than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 64)
        self.second, self.head = nn.Linear(64, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight[list(HOT)] *= 100
            self.head.weight *= 10

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        return self.head((tokens + self.second(nn.functional.gelu(self.first(tokens)))).mean(1))


def second(program: Program) -> str:
    return all_named(program, "linear")[1].name


def of_peaks(peaks: list[float]) -> Observed:
    highs = torch.tensor(peaks)
    return Observed(0.0, float(highs.max()), torch.zeros_like(highs), highs)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 10, width=32), min_size=33, max_size=200), st.lists(st.floats(50, 90), max_size=6)
)
def test_the_fewest_channels_are_taken_that_leave_a_quarter_of_the_range(peaks, large):
    found = outlier_channels(of_peaks([*large, *peaks]))
    count = len(large)
    few = 1 <= count <= min(4, (count + len(peaks)) // 32)
    if few:
        assert found == tuple(range(count))
    if found:
        rest = [peak for channel, peak in enumerate([*large, *peaks]) if channel not in found]
        assert 4 * max(rest) < max([*large, *peaks])
    elif large:
        assert not few


def test_of_few_channels_none_is_an_outlier():
    assert outlier_channels(of_peaks([100.0, *[1.0] * 30])) == ()
    assert outlier_channels(of_peaks([100.0, *[1.0] * 31])) == (0,)
    assert outlier_channels(of_peaks([0.0] * 64)) == ()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 63), min_size=1, max_size=4))
def test_the_float_model_computes_the_same(channels):
    program = prepared(seeded(Massive))
    expected, found = (
        logits(program),
        logits(decompose(program, {second(program): sorted(channels)})),
    )
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_what_the_layer_reads_then_is_without_them():
    program = prepared(seeded(Massive))
    changed = decompose(program, {second(program): HOT})
    product = named(changed, "mul").name
    peaks = observe(changed, images(), [product])[product].peaks
    assert [channel for channel, peak in enumerate(peaks) if peak == 0] == list(HOT)


def test_only_linears_between_floats_can_be_decomposed():
    program = prepared(seeded(Massive))
    first, behind, head = all_named(program, "linear")
    inputs = {node.name: Level.INPUTS for node in (first, behind, head)}
    assert can_decompose(behind, inputs)
    # It gives what the Program gives; a float one has no grid; a sum of integers takes no floats.
    assert not can_decompose(head, inputs)
    assert not can_decompose(behind, {})
    integers = {behind.name: Level.INTEGER, named(program, "add").name: Level.INTEGER}
    assert not can_decompose(behind, integers)


@pytest.mark.parametrize("precision", ["w8a8", "w6a6"])
@pytest.mark.parametrize("level", [Level.INPUTS, Level.INTEGER], ids=str)
def test_a_layer_that_outliers_harm_is_decomposed_and_errs_less(level, precision, monkeypatch):
    program = prepared(seeded(Massive))
    pixels, expected = images(64).numpy(), logits(program)

    def run() -> tuple[tuple[str, ...], float]:
        levels = {second(program): level}
        result = quantize(program, pixels, precision=precision, levels=levels, method="minmax")
        return tuple(result.decomposed), float((logits(result.program) - expected).square().mean())

    names, error = run()
    monkeypatch.setattr(drafting, "_WORTH_DECOMPOSING", math.inf)
    none, other = run()
    assert (names, none) == ((second(program),), ())
    assert error < other / 4


@pytest.mark.parametrize("to", ["onnx", "tflite", "coreml"])
def test_every_format_carries_it(to, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "tflite": "litert_torch", "coreml": "coremltools"}[to])
    result = quantize(prepared(seeded(Massive)), images(64).numpy(), method="minmax", placement="inputs")
    assert result.decomposed
    path = tmp_path / FORMATS[to].file
    FORMATS[to].export(result.program, path, ExportChoices(precision="fp32"))
    assert verify(path, against=result.program, samples=5, tolerance=0.02).passed


@pytest.mark.parametrize(("precision", "remain"), [("w8a8", True), ("w4a4", False)])
def test_a_layer_that_stays_float_after_all_is_put_back(precision, remain):
    """Every image keeps its class with this layer in eight bits, and with no layer in four."""
    program = prepared(seeded(Massive))
    pixels = images(512).numpy()
    result = quantize(
        program, pixels, precision=precision, placement="inputs", method="minmax", max_drop=0.0, spare=False
    )
    assert result.decomposed == ({second(program): HOT} if remain else {})
    if not remain:
        assert operators(result.program) == operators(program)
        assert_same_function(result.program, program)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 63), min_size=1, max_size=4))
def test_what_is_put_back_has_its_weight_again(channels):
    program = prepared(seeded(Massive))
    apart = {second(program): sorted(channels)}
    found = recompose(fold_factors(decompose(program, apart), {}), apart)
    assert operators(found) == operators(program)
    weights = found.exported.state_dict
    assert torch.equal(weights["second.weight"], program.exported.state_dict["second.weight"])
