"""How much range an activation gives to its weights is what costs their product least."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.quant.migration import Reader, Reading, migrate, smoothing_scale
from edgevit.quant.observation import Observed
from edgevit.quant.precision import bit_widths
from tests.quant.helpers import named
from tests.rewrites.helpers import program_of

W8A8 = bit_widths("w8a8")


def reading(channel_sizes: torch.Tensor, *, seed: int = 0, groups: int | None = None) -> Reading:
    """A linear's input and weight; with groups a convolution's of a single pixel."""
    generator, channels = torch.Generator().manual_seed(seed), len(channel_sizes)
    values = torch.randn(64, channels, generator=generator) * channel_sizes
    lows, highs = values.amin(0), values.amax(0)
    observed = Observed(float(lows.min()), float(highs.max()), lows, highs)
    if groups is None:
        node = named(program_of(nn.Linear(channels, 8), (channels,)), "linear")
        return Reading(
            observed, observed.peaks, values, 1, [Reader(node, torch.randn(8, channels, generator=generator))]
        )
    conv = nn.Conv2d(channels, channels, 1, groups=groups)
    weight = torch.randn(channels, channels // groups, 1, 1, generator=generator)
    node = named(program_of(conv, (channels, 1, 1)), "conv2d")
    return Reading(observed, observed.peaks, values[:, :, None, None], 1, [Reader(node, weight)])


def error_with(found: Reading, scale: torch.Tensor) -> float:
    """Of W8A8 in the layer's output, the grid being that of the rows themselves; no code of edgevit's."""
    (reader,) = found.readers
    x, weight = found.values * scale, reader.weight
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step, w = (high - low) / 255, weight / scale
    steps = w.abs().amax(1, keepdim=True) / 127
    output = (torch.round(x / step) * step) @ (torch.round(w / steps) * steps).T
    return float((output - found.values @ weight.T).square().sum())


def test_one_loud_channel_is_made_quiet_and_the_product_better():
    found = reading(torch.tensor([1.0] * 15 + [100.0]))
    scale = migrate(found, W8A8, "auto", free=False)
    assert scale is not None
    assert scale[-1] == scale.min()
    assert error_with(found, scale) < 0.1 * error_with(found, torch.ones(16))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0.01, 100), min_size=4, max_size=12))
def test_whatever_is_chosen_is_no_worse_than_leaving_the_activation_alone(seed, sizes):
    found = reading(torch.tensor(sizes), seed=seed)
    scale = migrate(found, W8A8, "auto", free=True)
    if scale is not None:
        # float16 scales, and zero points, are left out of the yardstick.
        assert error_with(found, scale) <= 1.1 * error_with(found, torch.ones(len(sizes)))


def test_range_that_other_images_go_beyond_is_not_given_away():
    quiet = reading(torch.tensor([1.0] * 15 + [100.0]))
    # On these images every quiet channel is four times as large as where its range was seen.
    beyond = replace(quiet, values=quiet.values * torch.tensor([4.0] * 15 + [1.0]))
    scale, careful = (migrate(found, W8A8, "auto", free=True) for found in (quiet, beyond))
    assert scale is not None
    assert careful is None or careful[-1] > scale[-1]


def test_channels_that_are_alike_are_not_worth_a_multiplication():
    assert migrate(reading(torch.ones(16)), W8A8, "auto", free=False) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_weights_take_over_the_power_of_the_range_that_the_strength_says(seed, strength):
    generator = torch.Generator().manual_seed(seed)
    peaks, columns = (torch.rand(6, generator=generator) + 0.1 for _ in range(2))
    scale = smoothing_scale(peaks, columns, strength)
    ratio = (peaks * scale) / (peaks * columns) ** (1 - strength)
    assert scale.max() == 1
    torch.testing.assert_close(ratio, ratio[0].expand(6))


@pytest.mark.parametrize("groups", [1, 4])
def test_the_loud_channel_of_a_convolution_is_made_quiet(groups):
    scale = migrate(reading(torch.tensor([1.0, 1.0, 50.0, 2.0]), groups=groups), W8A8, "auto", free=False)
    assert scale is not None
    assert scale.argmin() == 2


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_divided_weight_undoes_the_factor(groups):
    found = reading(torch.linspace(1, 8, 8), groups=groups)
    (reader,) = found.readers
    scale = torch.linspace(0.1, 1, 8)
    expected = reader.compute(found.values, reader.weight)
    undone = reader.compute(found.values * scale[:, None, None], reader.divided(scale))
    torch.testing.assert_close(undone, expected, rtol=1e-4, atol=1e-4)


def test_a_channel_that_is_always_zero_gets_a_finite_factor():
    found = reading(torch.tensor([1.0, 0.0, 30.0, 1.0]))
    scale = migrate(found, W8A8, "auto", free=True)
    assert scale is not None
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
