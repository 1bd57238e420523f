"""From what was observed to grids and integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.running import Runner
from edgevit.quant.grids import UNIT_INTERVAL, round_weight, weight_scales
from edgevit.quant.levels import Level, groups
from edgevit.quant.observation import Observed
from edgevit.quant.operators import layer_of, weight_of
from edgevit.quant.precision import BIT_WIDTHS, BitWidths, bit_widths
from edgevit.quant.ranges import cover, fit_weight, start
from edgevit.quant.tails import without_tails
from tests.quant.helpers import Folded, Net, Tokens, named, prepared, same_weight, seeded, started

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}


def seen(low: float, high: float) -> Observed:
    return Observed(low, high, -torch.ones(1), torch.ones(1))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(PROGRAMS)),
    st.sampled_from(["inputs", "layers", "full"]),
    st.sampled_from([name for name, bits in BIT_WIDTHS.items() if bits.activations]),
)
def test_every_grid_covers_what_was_observed_of_its_whole_group(model, placement, precision):
    found = started(PROGRAMS[model], placement, precision)
    grids = found.quantization.activations
    for group in groups(found.program.graph, found.levels):
        assert len({id(grids[name]) for name in group.values}) == 1
        if group.fixed is not None:
            wide = precision == "w8a16"
            assert grids[group.values[0]] == (group.fixed.widened() if wide else group.fixed)
            continue
        grid, bits = grids[group.values[0]], bit_widths(precision).activations
        assert grid.bits == bits
        observed = [found.observed[name] for name in group.values]
        nodes = [node for node in found.program.graph.nodes if node.name in group.values]
        ends = min(one.low for one in observed), max(one.high for one in observed)
        low, high = without_tails(nodes, *ends, bits=bits)
        assert grid.low - grid.scale * 0.51 <= low
        assert grid.high + grid.scale * 0.51 >= high


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.sampled_from(list(BIT_WIDTHS)))
def test_exactly_the_layers_with_a_level_get_integer_weights(model, precision):
    found = started(PROGRAMS[model], "inputs", precision)
    assert found.quantization.weights.keys() == {
        n for n, level in found.levels.items() if level > Level.FLOAT
    }
    constants = Runner(found.program).constants
    for node in found.program.graph.nodes:
        if node.name in found.quantization.weights:
            weight = found.quantization.weights[node.name]
            assert (weight.bits, weight.axis) == (bit_widths(precision).weights, layer_of(node).axis)
            assert weight.values.shape == constants[weight_of(node).name].shape


@pytest.mark.parametrize(("scheme", "zero_point"), [("sym", 0), ("auto", -128 + 64), ("asym", -128 + 64)])
def test_the_scheme_places_the_zero_point(scheme, zero_point):
    assert cover([seen(-1, 3)], BitWidths(8, 8), scheme).zero_point == zero_point


def test_several_values_are_covered_together():
    grid = cover([seen(-1, 0), seen(0, 3)], BitWidths(8, 8), "auto")
    assert (grid.low, grid.high) == pytest.approx((-1, 3), abs=0.02)


def test_a_softmax_keeps_the_grid_its_kernel_gives():
    found = started(PROGRAMS[Tokens], "full")
    assert found.quantization.activations[named(found.program, "softmax").name] == UNIT_INTERVAL


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 6]),
    st.sampled_from(["auto", "channel", "tensor"]),
    st.integers(0, 99),
    st.floats(1, 20),
)
def test_a_weight_of_few_bits_is_no_worse_than_with_nothing_cut_off(bits, granularity, seed, outlier):
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))
    weight[0, 0] *= outlier
    found = fit_weight(weight, bits, 0, granularity=granularity)
    peak = weight_scales(weight, bits=bits, axis=0, per_channel=granularity != "tensor")
    uncut = round_weight(weight, peak, bits=bits, axis=0)
    errors = [(weight - each.dequantize()).square().sum(1) for each in (found, uncut)]
    if granularity == "tensor":
        assert len(found.scales.unique()) == 1
        errors = [error.sum() for error in errors]
    assert bool((errors[0] <= errors[1]).all())


def test_an_outlier_is_cut_off_where_that_pays():
    weight = torch.cat([torch.linspace(-1, 1, 99), torch.tensor([1.6])])[None]
    found = fit_weight(weight, 4, 0, granularity="auto")
    assert float(found.scales) < 1.6 / 7


def test_a_weight_of_eight_bits_has_nothing_cut_off():
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    scales = weight_scales(weight, bits=8, axis=0)
    expected = round_weight(weight, scales, bits=8, axis=0)
    assert same_weight(fit_weight(weight, 8, 0, granularity="auto"), expected)


def test_a_weight_of_nothing_but_zeros_stays_zero():
    found = fit_weight(torch.zeros(3, 5), 4, 0, granularity="auto")
    assert torch.equal(found.dequantize(), torch.zeros(3, 5))


def test_one_scale_for_the_tensor_is_asked_for_by_name():
    program = PROGRAMS[Net]
    found = started(program)
    tensor = start(program, found.levels, found.observed, bit_widths("w8a8"), granularity="tensor")
    for name, weight in tensor.weights.items():
        assert len(weight.scales.unique()) == 1
        assert len(found.quantization.weights[name].scales.unique()) > 1
