"""How much range an activation gives to its weights is what costs their product least."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quant.migration import Reading, migrate, smoothing_scale
from edgevit.quant.observation import Observed
from edgevit.quant.precision import bit_widths

W8A8 = bit_widths("w8a8")


def reading(channel_sizes: torch.Tensor, *, seed: int = 0) -> Reading:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(64, len(channel_sizes), generator=generator) * channel_sizes
    weight = torch.randn(8, len(channel_sizes), generator=generator)
    lows, highs = rows.amin(0), rows.amax(0)
    return Reading(Observed(float(lows.min()), float(highs.max()), lows, highs), rows, [weight])


def error_with(found: Reading, scale: torch.Tensor) -> float:
    """Of W8A8 in the layer's output, the grid being that of the rows themselves; no code of edgevit's."""
    x, (weight,) = found.rows * scale, found.weights
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step, w = (high - low) / 255, weight / scale
    steps = w.abs().amax(1, keepdim=True) / 127
    output = (torch.round(x / step) * step) @ (torch.round(w / steps) * steps).T
    return float((output - found.rows @ weight.T).square().sum())


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


def test_channels_that_are_alike_are_not_worth_a_multiplication():
    assert migrate(reading(torch.ones(16)), W8A8, "auto", free=False) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_weights_take_over_the_power_of_the_range_that_the_strength_says(seed, strength):
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.rand(6, generator=generator) + 0.1
    weight = torch.rand(4, 6, generator=generator) + 0.1
    scale = smoothing_scale(peaks, [weight], strength)
    ratio = (peaks * scale) / (peaks ** (1 - strength) * weight.abs().amax(0) ** (1 - strength))
    assert scale.max() == 1
    torch.testing.assert_close(ratio, ratio[0].expand(6))


def test_a_channel_that_is_always_zero_gets_a_finite_factor():
    found = reading(torch.tensor([1.0, 0.0, 30.0, 1.0]))
    scale = migrate(found, W8A8, "auto", free=True)
    assert scale is not None
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
