"""What is observed of values is what direct computation says of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.running import BATCH, Runner
from edgevit.quant.observation import Observed, observe
from tests.quant.helpers import Folded, Net, Tokens, images, named, prepared, seeded, values

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}


def floats(program):
    return [n.name for n in program.graph.nodes if n.op == "call_function" and torch.is_tensor(n.meta["val"])]


def constant_of(number: float) -> Observed:
    """What a value that is the same everywhere looks like."""
    program = prepared(lambda x: x.clamp(number, number).mean((2, 3)))
    name = named(program, "clamp").name
    return observe(program, images(), [name])[name]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.integers(1, 2 * BATCH + 3))
def test_ranges_hold_zero_and_are_those_of_all_images(model, count):
    program = PROGRAMS[model]
    names, batch = floats(program), images(count)
    found = observe(program, batch, names)
    everything = values(program, names, batch)
    assert found.keys() == set(names)
    for name in names:
        low, high = float(everything[name].min()), float(everything[name].max())
        assert found[name].low == pytest.approx(min(low, 0.0), abs=1e-6)
        assert found[name].high == pytest.approx(max(high, 0.0), abs=1e-6)


@pytest.mark.parametrize("model", [Net, Tokens])
def test_peaks_are_the_largest_values_of_channels(model):
    program = PROGRAMS[model]
    for operator, dims in (("conv2d", (0, 2, 3)), ("linear", None)):
        name = named(program, operator).name
        value = values(program, [name])[name].abs()
        expected = value.amax(dim=dims or tuple(range(value.dim() - 1)))
        assert torch.allclose(observe(program, images(), [name])[name].peaks, expected)


def test_a_linear_layer_on_a_feature_map_has_its_channels_last():
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.permute(0, 2, 3, 1)).mean((1, 2))

    program = prepared(ChannelsLast())
    name = named(program, "linear").name
    expected = values(program, [name])[name].abs().flatten(0, 2).amax(0)
    assert torch.allclose(observe(program, images(), [name])[name].peaks, expected)


@pytest.mark.parametrize("number", [0.0, 2.5, -2.5])
def test_a_value_that_never_changes_is_constant(number):
    assert constant_of(number).constant == number


def test_a_value_that_changes_is_not_constant():
    program = PROGRAMS[Net]
    for name, found in observe(program, images(), floats(program)).items():
        assert found.constant is None, name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, BATCH + 1])
def test_a_number_that_is_none_shows_in_the_range_whichever_batch_has_it(bad, where):
    program = prepared(lambda x: (x + 1).mean((2, 3)))
    batch, name = images(BATCH + 2), named(program, "add").name
    batch[where, 0, 0, 0] = bad
    found = observe(program, batch, [name])[name]
    assert not (math.isfinite(found.low) and math.isfinite(found.high))


def test_the_image_itself_can_be_observed():
    program = PROGRAMS[Net]
    name, batch = Runner(program).image, images()
    found = observe(program, batch, [name])[name]
    assert (found.low, found.high) == (float(batch.min()), float(batch.max()))


def test_wider_is_what_would_be_seen_of_larger_numbers():
    program = PROGRAMS[Net]
    name = named(program, "conv2d").name
    found = observe(program, images(), [name])[name].wider(1.25)
    value = values(program, [name])[name] * 1.25
    assert (found.low, found.high) == (pytest.approx(float(value.min())), pytest.approx(float(value.max())))
    assert torch.allclose(found.lows, value.amin((0, 2, 3)))
    assert torch.allclose(found.highs, value.amax((0, 2, 3)))
    assert constant_of(0.5).wider(1.25).constant == 0.625
