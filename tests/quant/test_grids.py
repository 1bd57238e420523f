"""Grids: what they hold, how they round, and that every scale is a float16 number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgevit.quant.grids import (
    UNIT_INTERVAL,
    ActivationGrid,
    QuantizedWeight,
    quantize_bias,
    round_weight,
    snapped,
    snapped_tensor,
    weight_limit,
    weight_scales,
)
from edgevit.quant.insertion import decomposed

BITS = (2, 3, 4, 6, 8, 16)
numbers = st.floats(-1e4, 1e4, width=32)
# Far from the smallest float16 numbers, whose steps are coarse.
positive = st.floats(0.25, 1e4, width=32)


def is_half(scale: float) -> bool:
    return float(np.float16(scale)) == scale


@st.composite
def grids(draw: st.DrawFn) -> ActivationGrid:
    low, high = sorted((draw(numbers), draw(numbers)))
    bits, scheme = draw(st.sampled_from(BITS)), draw(st.sampled_from(["sym", "asym"]))
    return ActivationGrid.of_range(low, high, bits=bits, scheme=scheme)


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.sampled_from([(3, 4), (2, 5), (4, 2, 3, 3), (1, 1), (3, 2, 5)]))
    size = 10 ** draw(st.floats(-7, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return torch.randn(shape, generator=generator) * size


@given(grids())
def test_every_number_of_an_8_bit_grid_is_on_the_widened_one(grid):
    assume(grid.bits <= 8)
    points = (torch.arange(grid.quant_min, grid.quant_max + 1) - grid.zero_point) * grid.scale
    wide = grid.widened()
    assert (wide.bits, wide.zero_point) == (16, 0)
    assert is_half(wide.scale)
    # Exact but for scales so small that float16 has no 128th of them.
    exact = wide.scale * 128 == grid.scale
    difference = float((wide.quantize(points) - points).abs().max())
    assert difference <= (1e-6 * float(points.abs().max()) if exact else 0.51 * wide.scale)


def test_softmax_has_the_grid_of_its_16_bit_kernel_when_widened():
    assert UNIT_INTERVAL.widened() == ActivationGrid(1 / 32768, 0, bits=16)


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(BITS), st.sampled_from(["sym", "asym"]))
def test_a_grid_holds_its_range_to_half_a_step_and_zero_exactly(first, second, bits, scheme):
    low, high = sorted((first, second))
    grid = ActivationGrid.of_range(low, high, bits=bits, scheme=scheme)
    # Beyond this the largest float16 number would be too small a scale.
    assume(max(abs(low), abs(high)) < 65504 * (2 ** (bits - 1) - 1))
    slack = grid.scale * (0.5 + 1e-6)
    assert grid.low - slack <= min(low, 0)
    assert grid.high + slack >= max(high, 0)
    assert grid.quant_min <= grid.zero_point <= grid.quant_max
    assert float(grid.quantize(torch.zeros(1))) == 0.0


@settings(max_examples=100, deadline=None)
@given(grids())
def test_a_grid_has_a_float16_scale_and_integers_that_its_type_holds(grid):
    assert is_half(grid.scale)
    limits = torch.iinfo(grid.dtype)
    assert limits.min <= grid.quant_min < grid.quant_max <= limits.max
    assert grid.zero_point == 0 or grid.bits <= 8


@settings(max_examples=100, deadline=None)
@given(grids(), st.lists(numbers, min_size=1, max_size=20))
def test_quantizing_twice_changes_nothing_more(grid, found):
    once = grid.quantize(torch.tensor(found))
    assert torch.equal(grid.quantize(once), once)


@settings(max_examples=100, deadline=None)
@given(grids(), st.lists(numbers, min_size=1, max_size=20))
def test_what_lies_in_the_range_moves_by_half_a_step_at_most(grid, found):
    inside = torch.tensor(found).clamp(grid.low, grid.high)
    error = (grid.quantize(inside) - inside).abs().max()
    assert float(error) <= grid.scale * 0.5 + 1e-6 * max(abs(grid.low), grid.high)


@settings(max_examples=100, deadline=None)
@given(grids(), st.lists(numbers, min_size=1, max_size=20), st.integers(-300, 300))
def test_a_grid_computes_what_the_operators_in_the_graph_do_to_the_bit(grid, found, steps):
    halfway = torch.tensor([(steps + 0.5) * grid.scale])
    tensor = torch.cat([torch.tensor(found), halfway])
    limits = (grid.scale, grid.zero_point, grid.quant_min, grid.quant_max, grid.dtype)
    stored = decomposed.quantize_per_tensor.default(tensor, *limits)
    assert torch.equal(grid.quantize(tensor), decomposed.dequantize_per_tensor.default(stored, *limits))


@settings(max_examples=60, deadline=None)
@given(positive, st.sampled_from([2, 4, 6, 8]))
def test_a_symmetric_grid_of_one_sign_uses_all_its_integers(largest, bits):
    positive_grid = ActivationGrid.of_range(0.0, largest, bits=bits, scheme="sym")
    negative_grid = ActivationGrid.of_range(-largest, 0.0, bits=bits, scheme="sym")
    assert positive_grid.zero_point == positive_grid.quant_min
    assert negative_grid.zero_point == negative_grid.quant_max


@settings(max_examples=60, deadline=None)
@given(positive, positive, st.sampled_from([2, 4, 6, 8]))
def test_an_asymmetric_grid_is_never_coarser_than_a_symmetric_one(low, high, bits):
    schemes = {s: ActivationGrid.of_range(-low, high, bits=bits, scheme=s) for s in ("sym", "asym")}
    assert schemes["asym"].scale <= schemes["sym"].scale
    assert schemes["sym"].zero_point == 0


def test_a_range_of_nothing_but_zero_has_a_grid():
    grid = ActivationGrid.of_range(0.0, 0.0)
    assert grid.scale == 2.0**-24
    assert float(grid.quantize(torch.zeros(1))) == 0.0


def test_the_unit_interval_reaches_from_zero_to_one_step_below_one():
    assert (UNIT_INTERVAL.low, UNIT_INTERVAL.high) == (0.0, 255 / 256)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e30))
def test_a_snapped_scale_is_float16_and_neither_zero_nor_infinite(scale):
    for found in (snapped(scale), snapped(scale, up=True)):
        assert is_half(found)
        assert 0 < found < math.inf


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-24, 65504.0))
def test_snapping_takes_the_nearest_and_snapping_up_the_next(scale):
    above = snapped(scale, up=True)
    below = float(np.nextafter(np.float16(above), np.float16(0)))
    assert below < scale <= above
    assert abs(snapped(scale) - scale) <= min(scale - below, above - scale)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="a scale of"):
        snapped(scale)


def test_snapping_a_tensor_is_snapping_its_elements():
    scales = torch.tensor([0.0, 1e-7, 0.1, 3.0, 1e9])
    assert snapped_tensor(scales).tolist() == [snapped(float(scale)) for scale in scales]
    assert snapped_tensor(scales, up=True).tolist() == [snapped(float(scale), up=True) for scale in scales]


@settings(max_examples=150, deadline=None)
@given(weights(), st.sampled_from([2, 3, 4, 6, 8]), st.sampled_from([0, 1]), st.booleans())
def test_a_weight_rounds_to_the_nearest_within_its_limits(weight, bits, axis, per_channel):
    scales = weight_scales(weight, bits=bits, axis=axis, per_channel=per_channel)
    found = round_weight(weight, scales, bits=bits, axis=axis)
    limit = weight_limit(bits)
    assert found.values.dtype == torch.int8
    assert int(found.values.abs().max()) <= limit
    assert all(is_half(float(scale)) for scale in found.scales)
    steps = (found.dequantize() - weight).abs().movedim(axis, -1) / scales
    assert float(steps.max()) <= 0.5 + 1e-4


@settings(max_examples=60, deadline=None)
@given(weights(), st.sampled_from([4, 8]))
def test_one_scale_for_the_tensor_is_that_of_its_largest_channel(weight, bits):
    whole = weight_scales(weight, bits=bits, axis=0, per_channel=False)
    assert whole.shape == (len(weight),)
    assert set(whole.tolist()) == {float(weight_scales(weight, bits=bits, axis=0).max())}


def test_a_channel_of_zeros_stays_zero():
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    found = round_weight(weight, weight_scales(weight, bits=8, axis=0), bits=8, axis=0)
    assert found.values[0].tolist() == [0, 0]
    assert bool((found.scales > 0).all())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(2.0**-16, 1, width=32)), min_size=1))
def test_a_bias_is_kept_to_half_a_step_of_the_accumulator(channels):
    bias, scales = (torch.tensor(column) for column in zip(*channels, strict=True))
    stored = quantize_bias(bias, scales)
    assert stored.dtype == torch.int32
    error = (stored.double() * scales.double() - bias.double()).abs()
    assert bool((error <= scales.double() * 0.5 * (1 + 1e-9)).all())


def test_a_bias_too_large_for_the_accumulator_stops_at_the_end_of_int32():
    stored = quantize_bias(torch.tensor([1e6, -1e6]), torch.tensor([1e-9, 1e-9]))
    assert stored.tolist() == [2**31 - 1, -(2**31 - 1)]


def test_a_weight_dequantizes_along_its_axis():
    values = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)
    scales = torch.tensor([0.5, 2.0])
    by_row, by_column = (QuantizedWeight(values, scales, axis, 8).dequantize() for axis in (0, 1))
    assert by_row.tolist() == [[0.5, 1.0], [6.0, 8.0]]
    assert by_column.tolist() == [[0.5, 4.0], [1.5, 8.0]]
