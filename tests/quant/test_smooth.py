"""Smooth activations: the float program computes the same, and a layer norm does the work where it can."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.graph.program import Program
from edgevit.quant.smooth import Smoothing, smooth
from tests.rewrites.helpers import assert_same_function, operators, program_of

SHAPE = (5, 4)
SCALE = torch.tensor([0.5, 1.0, 2.0, 3.0])


class Normed(nn.Module):
    """Two layers on one layer norm."""

    def __init__(self, *, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, elementwise_affine=affine)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm(x)
        return self.first(norm) + self.second(norm)


class Residual(Normed):
    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm(x)
        return norm + self.first(norm) + self.second(norm)


def smoothed(
    module: nn.Module, source: str = "layer_norm", layers: tuple[str, ...] = ("linear", "linear_1")
) -> tuple[Program, str]:
    original = program_of(module, SHAPE)
    found, names = smooth(original, {"name": Smoothing(source, SCALE, layers)})
    assert_same_function(found, original)
    return found, names["name"]


def test_a_layer_norm_takes_up_the_factor():
    found, name = smoothed(Normed())
    assert name == "layer_norm"
    assert operators(found)["mul"] == 0


def test_a_layer_norm_that_another_reads_is_left_alone():
    found, name = smoothed(Residual())
    assert operators(found)["mul"] == 1
    assert name.startswith("mul")


def test_a_layer_that_is_not_smoothed_is_left_alone():
    found, _ = smoothed(Normed(), layers=("linear",))
    assert operators(found)["mul"] == 1


def test_a_layer_norm_without_a_weight_has_nothing_to_take_it_up():
    found, _ = smoothed(Normed(affine=False))
    assert operators(found)["mul"] == 1


def test_any_other_value_is_multiplied():
    found, name = smoothed(nn.Sequential(nn.GELU(), nn.Linear(4, 4)), "gelu", ("linear",))
    assert operators(found)["mul"] == 1
    assert name.startswith("mul")


def test_the_image_is_multiplied_too():
    original = program_of(nn.Linear(4, 4), SHAPE)
    image = str(original.exported.graph_signature.user_inputs[0])
    found, _ = smooth(original, {"name": Smoothing(image, SCALE, ("linear",))})
    assert_same_function(found, original)


def test_nothing_to_smooth_gives_the_very_program():
    original = program_of(Normed(), SHAPE)
    assert smooth(original, {}) == (original, {})


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_of_any_groups_computes_the_same_behind_the_factor(groups):
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
            self.second = nn.Conv2d(4, 4, 1, groups=groups, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            active = nn.functional.silu(x)
            return self.first(active).mean(1) + self.second(active).mean(1)

    original = program_of(Convolved(), (4, 5, 5))
    found, names = smooth(original, {"silu": Smoothing("silu", SCALE, ("conv2d", "conv2d_1"))})
    assert_same_function(found, original)
    assert operators(found)["mul"] == 1
    assert names["silu"].startswith("mul")
