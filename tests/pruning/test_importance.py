"""Scores of units: each method finds the unit that matters, and those that matter not at all."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.slicing import slice_axis
from edgevit.pruning.importance import Method, importance
from tests.rewrites.helpers import program_of
from tests.test_slicing import SIZED, Block, logits

METHODS = get_args(Method)


class Hidden(nn.Module):
    """Six hidden units: the second is loud, nothing reads the fourth."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 4)
        with torch.no_grad():
            self.up.weight[1] *= 10
            self.down.weight[:, 1] *= 10
            self.down.weight[:, 3] = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(image.mean((2, 3))).relu() + 0.1)


def images(count: int = 24) -> torch.Tensor:
    return torch.randn(count, *SIZED, generator=torch.Generator().manual_seed(0)) + 0.5


def program(module: type[nn.Module]) -> Program:
    torch.manual_seed(1)
    return prepare_for_export(program_of(module(), SIZED))


def of_size(found: Program, size: int) -> Axis:
    return next(axis for axis in find_axes(found) if axis.size == size and not axis.fixed)


@pytest.mark.parametrize("method", METHODS)
def test_the_loud_unit_matters_most(method):
    found = program(Hidden)
    axis = of_size(found, 6)
    scores = importance(found, [axis], images(), method=method)[axis]
    assert scores.shape == (6,)
    assert scores.dtype == torch.float64
    assert int(scores.argmax()) == 1


@pytest.mark.parametrize("method", ["gradient", "kl"])
def test_a_unit_that_nothing_reads_does_not_matter(method):
    found = program(Hidden)
    axis = of_size(found, 6)
    scores = importance(found, [axis], images(), method=method)[axis]
    assert float(scores[3]) == pytest.approx(0, abs=1e-9)
    assert float(scores.sort().values[1]) > 1e-9


def test_l1_sums_every_weight_that_a_unit_is_in():
    found = program(Hidden)
    axis = of_size(found, 6)
    state = found.exported.state_dict
    expected = state["up.weight"].abs().sum(1) + state["up.bias"].abs() + state["down.weight"].abs().sum(0)
    scores = importance(found, [axis], images(), method="l1")[axis]
    torch.testing.assert_close(scores, expected.double(), check_dtype=False)


@pytest.mark.parametrize("size", [3, 5, 7, 20])
def test_kl_is_what_the_predictions_lose_without_a_unit(size):
    found = program(Block)
    axis = of_size(found, size)
    scores = importance(found, [axis], images(), method="kl")[axis]
    expected = logits(found, images()).log_softmax(-1)
    for unit in range(axis.size):
        small = slice_axis(found, axis, [index for index in range(axis.size) if index != unit])
        without = logits(small, images()).log_softmax(-1)
        kl = nn.functional.kl_div(without, expected, reduction="batchmean", log_target=True)
        assert float(scores[unit]) == pytest.approx(float(kl), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("size", [5, 7, 20])
def test_gradients_tell_about_what_kl_measures(size):
    found = program(Block)
    axis = of_size(found, size)
    given = images(256)
    by_kl, by_gradient = (
        importance(found, [axis], given, method=method)[axis] for method in ("kl", "gradient")
    )
    assert float(torch.corrcoef(torch.stack([by_kl.log(), by_gradient.log()]))[0, 1]) > 0.8


def test_what_matters_for_some_images_need_not_for_others():
    found = program(Hidden)
    axis = of_size(found, 6)
    first, second = (
        importance(found, [axis], given, method="activation")[axis] for given in (images(), -3 * images())
    )
    assert not torch.allclose(first, second, rtol=0.1)


def test_an_unknown_method_is_refused_with_those_that_are_known():
    found = program(Hidden)
    with pytest.raises(EdgevitError, match="known: activation, gradient, kl, l1"):
        importance(found, [], images(), method="l2")


def test_an_axis_of_another_program_is_refused():
    found = program(Hidden)
    axis = of_size(found, 6)
    small = slice_axis(found, axis, [0, 1])
    with pytest.raises(EdgevitError, match="is no axis of model"):
        importance(small, [axis], images(), method="l1")
