"""Factors of channels beside float layers: gone, and the function is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.quant.folding import fold_factors
from edgevit.quant.levels import Level
from tests.rewrites.helpers import assert_same_function, operators, program_of

SHAPE = (4, 6, 6)


class Between(nn.Module):
    """A layer, a factor, and layers that read the product."""

    def __init__(self, *, kind: str, shape: tuple[int, ...], readers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first, *self.others = [self.layer() for _ in range(1 + readers)]
        self.others = nn.ModuleList(self.others)
        self.factor = nn.Parameter(torch.rand(shape) + 0.5)

    def layer(self) -> nn.Module:
        if self.kind == "linear":
            return nn.Linear(4, 4)
        return nn.Conv2d(4, 4, 3, padding=1, groups={"conv": 1, "grouped": 2, "depthwise": 4}[self.kind])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2) if self.kind == "linear" else x
        x = self.first(x.tanh()) * self.factor
        return torch.stack([layer(x) for layer in self.others])


KINDS = [("linear", (4,)), ("conv", (4, 1, 1)), ("grouped", (1, 4, 1, 1)), ("depthwise", (4, 1, 1))]


def layers(kind: str, count: int) -> list[str]:
    name = "linear" if kind == "linear" else "conv2d"
    return [name, *(f"{name}_{number}" for number in range(1, count))]


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("integers", ["none", "first", "readers", "one reader"])
def test_float_layers_take_up_a_factor(kind, shape, readers, integers):
    first, *others = layers(kind, 1 + readers)
    names = {"none": [], "first": [first], "readers": others, "one reader": others[:1]}[integers]
    program = program_of(Between(kind=kind, shape=shape, readers=readers), SHAPE)
    found = fold_factors(program, dict.fromkeys(names, Level.WEIGHTS))
    assert_same_function(found, program)
    assert operators(found)["mul"] == 0


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_a_factor_between_quantized_layers_stays(kind, shape):
    program = program_of(Between(kind=kind, shape=shape), SHAPE)
    assert fold_factors(program, dict.fromkeys(layers(kind, 2), Level.INPUTS)) is program


def test_a_factor_that_a_quantized_layer_reads_stays_before_it():
    """Its result is quantized: the layer behind it may be float, what it makes has another grid."""
    program = program_of(Between(kind="linear", shape=(4,)), SHAPE)
    assert fold_factors(program, {"linear_1": Level.INPUTS}) is program


@pytest.mark.parametrize("shape", [(), (1,), (36, 1), (36, 4)])
def test_factors_of_something_else_than_channels_stay(shape):
    program = program_of(Between(kind="linear", shape=shape), SHAPE)
    assert fold_factors(program, {}) is program


def test_a_weight_that_another_layer_shares_keeps_its_values():
    class Tied(Between):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return self.first(tokens * self.factor) + self.first(tokens).tanh()

    program = program_of(Tied(kind="linear", shape=(4,)), SHAPE)
    found = fold_factors(program, {})
    assert_same_function(found, program)
    assert operators(found)["mul"] == 0


def test_a_factor_of_what_is_read_elsewhere_stays():
    class Twice(Between):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x.flatten(2).transpose(1, 2))
            return y * self.factor + y.tanh()

    program = program_of(Twice(kind="linear", shape=(4,)), SHAPE)
    assert fold_factors(program, {}) is program


def test_two_factors_in_a_row_go_into_the_layer_behind_them():
    class Twice(Between):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).transpose(1, 2)
            return self.first(x.tanh() * self.factor * self.factor)

    program = program_of(Twice(kind="linear", shape=(4,)), SHAPE)
    found = fold_factors(program, {})
    assert_same_function(found, program)
    assert operators(found)["mul"] == 0
