"""A grid ends where the functions that read it become flat."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.quant.tails import without_tails
from tests.quant.helpers import all_named, named, prepared


class Read(nn.Module):
    """A convolution whose output some function reads."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x)).mean((2, 3))


FUNCTIONS = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "tanh-gelu": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "hardswish": nn.functional.hardswish,
    "sigmoid": torch.sigmoid,
    "gate": lambda x: x * x.sigmoid(),
    "two": lambda x: nn.functional.silu(x) + x.tanh(),
}
CONVS = {name: named(prepared(Read(function)), "conv2d") for name, function in FUNCTIONS.items()}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(FUNCTIONS)), st.floats(-40, 0), st.floats(0.1, 40), st.sampled_from([4, 8]))
def test_what_is_cut_off_changes_no_readers_output_by_more_than_a_quarter_of_a_step(name, low, high, bits):
    left, right = without_tails([CONVS[name]], low, high, bits=bits)
    assert low <= left <= right <= high
    numbers = torch.linspace(low, high, 3001, dtype=torch.float64)
    readers = [torch.nn.functional.silu, torch.tanh] if name == "two" else [FUNCTIONS[name]]
    for reader in readers:
        exact, cut = reader(numbers), reader(numbers.clamp(left, right))
        step = float(exact.max() - exact.min()) / (2**bits - 1)
        # Between two of the points at which it looks, a function moves on a little.
        assert float((exact - cut).abs().max()) <= 0.25 * step + (high - low) / 2000


def test_a_silu_leaves_little_of_what_lies_far_below_zero():
    left, right = without_tails([CONVS["silu"]], -30.0, 20.0, bits=8)
    assert -8 < left < -4
    assert right == pytest.approx(20.0, abs=0.05)
    assert without_tails([CONVS["gate"]], -30.0, 20.0, bits=8) == pytest.approx((left, right))


def test_a_sigmoid_is_flat_at_both_ends():
    left, right = without_tails([CONVS["sigmoid"]], -30.0, 30.0, bits=8)
    assert -8 < left < -4
    assert 4 < right < 8


@pytest.mark.parametrize(
    "function",
    [lambda x: x + 1, lambda x: nn.functional.silu(x) + x, lambda x: x * x.sum(1, keepdim=True).sigmoid()],
)
def test_a_range_that_anything_else_reads_is_left_whole(function):
    assert without_tails([named(prepared(Read(function)), "conv2d")], -30.0, 20.0, bits=8) == (-30.0, 20.0)


def test_what_moves_a_value_is_looked_through():
    program = prepared(Read(lambda x: nn.functional.silu(x.permute(0, 2, 3, 1))))
    conv, moved = named(program, "conv2d"), all_named(program, "permute")[0]
    assert without_tails([conv, moved], -30.0, 20.0, bits=8)[0] > -8
    assert without_tails([conv], -30.0, 20.0, bits=8) == (-30.0, 20.0)


def test_a_constant_has_no_tails():
    assert without_tails([CONVS["silu"]], 0.0, 0.0, bits=8) == (0.0, 0.0)
