"""What a slice will cost is known before it is made."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.axes import Axis, Dimensions, stored_tensors
from edgevit.graph.costs import Costs, count_macs, macs_by_node
from edgevit.graph.program import Program
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.slicing import slice_axes
from tests.pruning.nets import Attention, Convolutions, Learned, Mixer, program
from tests.quant.helpers import SHAPE, Tokens
from tests.rewrites.helpers import program_of
from tests.test_slicing import Block, free, models, prepared, some


class FoldedHeads(Attention):
    """Heads are a part of the batch."""

    def mix(self, query, key, value):
        query, key, value = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
        mixed = torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(-1), value)
        return mixed.unflatten(0, (-1, self.heads))


class Einsum(Attention):
    """Products by letters."""

    def mix(self, query, key, value):
        scores = torch.einsum("bhid,bhjd->bhij", query, key).softmax(-1)
        return torch.einsum("bhij,bhjd->bhid", scores, value)


class Itself(nn.Module):
    """Tokens that are their own queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


MODULES = {
    "block": Block,
    "attention": Attention,
    "spelled": lambda: Attention(spelled=True),
    "folded heads": FoldedHeads,
    "einsum": Einsum,
    "itself": Itself,
    "convolutions": Convolutions,
    "mixer": Mixer,
    "learned": Learned,
    "tokens": Tokens,
}
PROGRAMS = {name: program(module) for name, module in MODULES.items()}


def stored(found: Program) -> int:
    return sum(value.numel() for _, _, value in stored_tensors(found))


def check(found: Program, keep: dict[Axis, list[int]]) -> None:
    """What `Costs` says of a slice is what its graph does and stores."""
    dimensions = Dimensions(found)
    costs, leaves = Costs(dimensions), dimensions.axes()
    choices = {leaves[axis]: torch.tensor(indices) for axis, indices in keep.items()}
    small = slice_axes(found, keep)
    assert costs.macs(choices) == sum(macs_by_node(small).values())
    assert costs.parameters(choices) == stored(small)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(MODULES)), st.randoms(use_true_random=False))
def test_the_costs_of_any_slice_are_those_of_the_program_that_it_makes(name, source):
    found = PROGRAMS[name]
    axes = source.sample(free(found), source.randint(1, len(free(found))))
    # Of two at least: an einsum over one is no product to torch, and not counted.
    check(found, {axis: sorted({*some(axis, source), *range(2)}) for axis in axes})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_axis_alone_is_counted(name):
    for axis in free(PROGRAMS[name]):
        check(PROGRAMS[name], {axis: [0, 1]})


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", models(("deit_tiny", "mobilevit_xxs")))
def test_the_costs_of_slices_of_models(name, split):
    found, source = prepared(name), random.Random(3)
    found = split_projections(found) if split else found
    check(found, {axis: some(axis, source) for axis in free(found)})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_is_whole_costs_what_torch_counts(name):
    costs = Costs(Dimensions(PROGRAMS[name]))
    assert costs.macs({}) == count_macs(PROGRAMS[name])
    assert costs.parameters({}) == stored(PROGRAMS[name])


def test_multiplications_are_counted_by_hand():
    found = macs_by_node(PROGRAMS["mixer"])
    assert sorted(count for count in found.values() if count) == sorted(
        [3 * 4 * 6 * 16, 6 * 16 * 10, 6 * 10 * 16, 6 * 4]
    )


def test_costs_are_those_of_one_image_whatever_the_batch():
    module = Mixer().eval()
    whole = macs_by_node(program_of(module, SHAPE))
    assert sum(macs_by_node(program_of(module, SHAPE).with_batch(3)).values()) == sum(whole.values())
