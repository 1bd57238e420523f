"""A fused projection is split into layers that give the same, each of a width of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.graph.axes import find_axes
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.split_projections import split_projections
from tests import zoo
from tests.rewrites.helpers import program_of
from tests.test_slicing import images_of, prepared


def roles(program):
    return {(axis.role, axis.size) for axis in find_axes(program) if not axis.fixed}


class Attention(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Conv2d(3, 10, 4, 4), nn.Linear(10, 3 * 2 * 7, bias=bias)
        self.out = nn.Linear(14, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        fused = self.qkv(tokens).reshape(image.shape[0], -1, 3, 2, 7).permute(2, 0, 3, 1, 4)
        query, key, value = fused.unbind(0)
        attended = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.out(attended.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_becomes_three_of_their_own_widths(bias):
    torch.manual_seed(0)
    program = prepare_for_export(program_of(Attention(bias=bias), (3, 8, 8)))
    assert ("value", 7) not in roles(program)
    found = split_projections(program)
    assert {("query-key", 7), ("value", 7), ("heads", 2)} <= roles(found)
    images = zoo.example((3, 8, 8)).numpy()
    torch.testing.assert_close(
        torch.from_numpy(found.run(images)[0]), torch.from_numpy(program.run(images)[0]), rtol=1e-5, atol=1e-6
    )


def test_what_is_fused_no_more_stays_as_it_is():
    program = prepare_for_export(program_of(lambda x: x.mean((2, 3)), (3, 8, 8)))
    assert split_projections(program) is program


def test_a_projection_that_something_else_reads_stays_whole():
    class Shared(Attention):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = self.embed(image).flatten(2).transpose(1, 2)
            projected = self.qkv(tokens)
            parts = projected.reshape(image.shape[0], -1, 3, 14).permute(2, 0, 1, 3).unbind(0)
            return self.out(parts[0] * parts[1] + parts[2]).mean(1) + projected.mean()

    program = prepare_for_export(program_of(Shared(bias=True), (3, 8, 8)))
    assert split_projections(program) is program


@pytest.mark.parametrize(
    "name", ["deit_tiny", "mobilevit_xxs", pytest.param("swin_tiny", marks=pytest.mark.slow)]
)
def test_of_the_zoos_models_all_are_split(name):
    program = prepared(name)
    found = split_projections(program)
    assert not [axis for axis in find_axes(found) if axis.fixed == "it numbers parts of one tensor"]
    images = images_of(program).numpy()
    expected = program.run(images)[0]
    torch.testing.assert_close(
        torch.from_numpy(found.run(images)[0]),
        torch.from_numpy(expected),
        rtol=1e-4,
        atol=1e-5 * float(abs(expected).max()),
    )
