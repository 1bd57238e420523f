"""Every axis has an order in which its units go, and what their loss is expected to cost."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgevit.graph.axes import Axis, Role
from edgevit.graph.program import Program
from edgevit.graph.slicing import slice_axes, slice_axis
from edgevit.pruning.analysis import Analysis, analyse
from edgevit.pruning.compensation import compensate
from tests.pruning.nets import Attention, Convolutions, Learned, Mixer, axis_of, program
from tests.quant.helpers import Folded, Tokens, images, logits
from tests.test_slicing import Block, free

ROLES = get_args(Role)
NETS = {
    "block": Block,
    "attention": Attention,
    "spelled": lambda: Attention(spelled=True),
    "convolutions": Convolutions,
    "mixer": Mixer,
    "learned": Learned,
    "tokens": Tokens,
    "folded": Folded,
}


def analysed(found: Program, roles=ROLES, **options) -> Analysis:
    return analyse(found, images(48), roles=roles, **options)


def divergence(found: Program, other: Program, batch: torch.Tensor) -> float:
    expected, made = (logits(one, batch).double().log_softmax(-1) for one in (found, other))
    return float(functional.kl_div(made, expected, reduction="batchmean", log_target=True))


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_axis_has_a_curve_and_every_unit_a_place_in_it(name):
    found = analysed(program(NETS[name]))
    assert set(found.curves) == set(free(found.program))
    for axis, curve in found.curves.items():
        assert sorted(curve.order) == list(range(axis.size))
        assert list(curve.losses) == sorted(curve.losses)
        assert curve.losses[0] >= 0
        assert curve.losses[-1] > 0, f"{axis.name} is of no consequence"


@pytest.mark.parametrize("name", sorted(NETS))
def test_what_is_analysed_computes_what_was_given(name):
    whole = program(NETS[name])
    found = analysed(whole).program
    batch = images(5, seed=1)
    torch.testing.assert_close(logits(found, batch), logits(whole, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["block", "attention", "convolutions", "mixer", "folded"])
def test_on_the_whole_what_goes_first_matters_less_than_what_goes_last(name):
    found, batch = analysed(program(NETS[name])), images(128)

    def left(axis: Axis, units: tuple[int, ...]) -> float:
        keep = {axis: sorted(units)}
        small, _ = compensate(found.program, slice_axes(found.program, keep), keep, batch)
        return divergence(found.program, small, batch)

    last = sum(left(axis, curve.order[axis.size // 2 :]) for axis, curve in found.curves.items())
    first = sum(left(axis, curve.order[: axis.size // 2]) for axis, curve in found.curves.items())
    assert last < first


def test_the_loss_of_a_query_is_what_it_costs():
    """Its unit is all but gone, so that second order is enough."""

    def module():
        net = Block()
        with torch.no_grad():
            net.head.weight *= 10
            net.qk.weight *= 3
            net.qk.weight[::5] *= 0.1
            net.qk.bias[::5] *= 0.1
        return net

    found = analyse(program(module), images(1000), roles=("query-key",))
    ((axis, curve),) = found.curves.items()
    assert curve.order[0] == 0
    keep = sorted(curve.order[1:])
    real = divergence(found.program, slice_axis(found.program, axis, keep), images(1000))
    assert real / 2 < curve.losses[0] < real * 2


@pytest.mark.parametrize("role", ROLES)
def test_only_axes_of_the_roles_that_are_asked_for_are_looked_at(role):
    for name in ("block", "convolutions"):
        whole = program(NETS[name])
        expected = {axis.name for axis in free(whole) if axis.role == role}
        assert {axis.name for axis in analysed(whole, (role,)).curves} == expected


def test_a_rotated_query_goes_from_its_last_unit_to_its_first():
    found = analysed(program(Attention), ("query-key",))
    (curve,) = found.curves.values()
    assert curve.order == (4, 3, 2, 1, 0)


def test_heads_are_turned_only_where_their_width_may_shrink():
    assert [step.name for step in analysed(program(Attention), ("heads",)).program.card.steps] == []
    steps = [step.name for step in analysed(program(Attention), ("value",)).program.card.steps]
    assert steps == ["rotate_heads"]


class LayerAndProduct(nn.Module):
    """A hidden layer that the next layer reads, and a product with learned numbers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.codes = nn.Linear(3, 9), nn.Linear(9, 4), nn.Linear(3, 9)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = image.flatten(2).transpose(1, 2)
        made = self.up(tokens).relu()
        mixed = (made @ self.codes(tokens).transpose(1, 2)).softmax(-1) @ tokens
        return self.down(made).mean(1) + mixed.mean(1).sum(-1, keepdim=True) * torch.arange(4)


def test_an_axis_that_a_layer_and_a_product_read_has_a_curve():
    found = analysed(program(LayerAndProduct))
    curve = found.curves[axis_of(found.program, "query-key", 9)]
    assert sorted(curve.order) == list(range(9))


def test_what_is_read_twice_is_weighed_once():
    class Twice(LayerAndProduct):
        """The layer's part is nothing: what is left is the product, be the axis read once or twice."""

        def forward(self, image):
            tokens = image.flatten(2).transpose(1, 2)
            made = self.up(tokens).relu()
            mixed = (made @ self.codes(tokens).transpose(1, 2)).softmax(-1) @ tokens
            extra = 0 * self.down(made).mean(1) if self.twice else 0
            return mixed.mean(1).sum(-1, keepdim=True) * torch.arange(4) + extra

    def module(*, twice):
        net = Twice()
        net.twice = twice
        return net

    losses = []
    for twice in (False, True):
        found = analysed(program(lambda twice=twice: module(twice=twice)))
        losses.append(found.curves[axis_of(found.program, "query-key", 9)].losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_is_read_nowhere_has_no_curve():
    class Aside(nn.Module):
        """A value of which only the sizes are asked for."""

        def __init__(self):
            super().__init__()
            self.up, self.head = nn.Linear(3, 7), nn.Linear(3, 4)

        def forward(self, image):
            seen = image.mean((2, 3))
            return self.head(seen) + self.up(seen).shape[-1]

    assert analysed(program(Aside)).curves == {}


def test_the_order_is_the_same_for_the_same_seed():
    whole = program(Block)
    first, again = (analysed(whole, seed=4).curves for _ in range(2))
    assert {axis.name: curve for axis, curve in first.items()} == {
        axis.name: curve for axis, curve in again.items()
    }


def test_layers_that_read_the_same_in_other_ways_each_have_their_moments():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 9, 1)
            self.one, self.three = nn.Conv2d(9, 5, 1), nn.Conv2d(9, 5, 3, padding=1)
            self.far, self.head = nn.Conv2d(9, 5, 3, padding=2, dilation=2), nn.Linear(5, 4)

        def forward(self, image):
            made = self.stem(image).relu()
            return self.head((self.one(made) + self.three(made) + self.far(made)).relu().mean((2, 3)))

    found = analysed(program(Branches))
    sizes: dict[int, Axis] = {axis.size: axis for axis in found.curves}
    assert set(sizes) == {9, 5}
    curve = found.curves[sizes[9]]
    assert sorted(curve.order) == list(range(9))
