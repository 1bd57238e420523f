"""An axis ends where it is summed over, and a unit that is read nowhere is as good as gone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.axes import Axis, Dimensions
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.running import Runner
from edgevit.graph.slicing import slice_axis
from tests.pruning.nets import Attention, Convolutions, Mixer, program, reads_of
from tests.quant.helpers import images
from tests.test_slicing import Block, free, logits, models, prepared, some


def operators(found: Sequence[Read]) -> list[str]:
    return sorted(str(read.node.target).split(".")[1] for read in found)


def test_the_width_of_a_network_is_read_by_the_layers_behind_norms():
    found = reads_of(program(Block), "residual")
    assert operators(found) == ["linear"] * 4
    assert all(read.by_layer and read.units.tolist() == list(range(12)) for read in found)


@pytest.mark.parametrize(
    ("role", "units"),
    [
        ("heads", [head for head in range(3) for _ in range(7)]),
        ("value", list(range(7)) * 3),
        ("hidden", list(range(20))),
    ],
)
def test_what_one_layer_reads_it_reads_once(role, units):
    (read,) = reads_of(program(Block), role)
    assert read.by_layer
    assert read.units.tolist() == units


def test_a_query_is_read_by_the_attention_and_not_by_the_split_before_it():
    (read,) = reads_of(program(Block), "query-key")
    assert operators([read]) == ["scaled_dot_product_attention"]
    assert not read.by_layer
    assert (read.place, read.units.tolist()) == (3, list(range(5)))


def test_a_product_of_two_values_is_read_at_the_first():
    (read,) = reads_of(program(lambda: Attention(spelled=True)), "query-key")
    assert operators([read]) == ["matmul"]
    assert read.source is read.node.args[0]


class Sliced(Attention):
    """One layer gives all three, of which pieces are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 26)

    def operands(self, tokens):
        fused = self.qkv(tokens)
        return fused[..., :10], fused[..., 10:20], fused[..., 20:]


def test_a_slice_is_no_read_of_what_it_leaves_out():
    found = program(Sliced)
    assert operators(reads_of(found, "query-key")) == ["scaled_dot_product_attention"]
    assert operators(reads_of(found, "value")) == ["linear"]


def test_groups_of_a_convolution_pass_and_what_is_in_a_group_is_read():
    found = program(Convolutions)
    (stem,) = reads_of(found, "channels", 6)
    assert stem.units.tolist() == list(range(6)) * 2
    assert stem.node.args[6] == 2
    # Five channels of each group come out, pass through the depthwise convolution, and are read behind it.
    (wide,) = reads_of(found, "channels", 5)
    assert wide.node.args[5] == [2, 2]
    assert wide.units.tolist() == list(range(5)) * 2


def test_a_layer_over_tokens_does_not_read_channels():
    found = program(Mixer)
    assert operators(reads_of(found, "residual", 6)) == ["linear"]
    (read,) = reads_of(found, "hidden", 10)
    assert read.node.args[0] is read.source


def all_reads(found: Program) -> list[tuple[Dimensions, Axis, tuple[Read, ...]]]:
    dimensions = Dimensions(found)
    return [
        (dimensions, axis, reads(dimensions, leaf))
        for axis, leaf in dimensions.axes().items()
        if not axis.fixed
    ]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", models(("deit_tiny", "mobilevit_xxs")))
def test_every_read_gives_what_lacks_the_axis(name, split):
    found = split_projections(prepared(name)) if split else prepared(name)
    for dimensions, axis, readings in all_reads(found):
        leaf = dimensions.axes()[axis]
        assert readings, f"{axis.name} is read nowhere"
        assert len({read.node for read in readings}) == len(readings)
        for read in readings:
            assert not any(leaf.root in dim.leaves() for dim in dimensions.of[read.node])
            assert leaf.root in dimensions.of[read.source][read.place].leaves()
            assert set(read.units.tolist()) - {-1} == set(range(axis.size))
            assert len(read.units) == dimensions.of[read.source][read.place].size


def without(read: Read, keep: Sequence[int]) -> Callable[..., Any]:
    """The operation with zeros where it reads a unit that is not kept."""
    place = read.node.args.index(read.source)
    stays = torch.isin(read.units, torch.tensor([-1, *keep]))

    def compute(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        given[place] = given[place].movedim(read.place, -1).where(stays, 0.0).movedim(-1, read.place)
        target: Any = read.node.target
        return target(*given, **kwargs)

    return compute


def unread(found: Program, axis: Axis, keep: Sequence[int], batch: torch.Tensor) -> torch.Tensor:
    """The logits when no operation reads a unit that is not kept."""
    dimensions, runner = Dimensions(found), Runner(found)
    overrides = {read.node.name: without(read, keep) for read in reads(dimensions, dimensions.axes()[axis])}
    with torch.no_grad():
        return runner.run({runner.image: batch}, runner.results, overrides=overrides)[runner.results[0]]


# The width of `Block` has a norm, which sees what nothing reads.
PARTS = {
    "block": (Block, {"heads", "value", "query-key", "hidden"}),
    "attention": (Attention, {"heads", "value", "query-key", "residual"}),
    "spelled": (lambda: Attention(spelled=True), {"heads", "value", "query-key", "residual"}),
    "sliced": (Sliced, {"heads", "value", "query-key", "residual"}),
    "convolutions": (Convolutions, {"channels", "hidden"}),
    "mixer": (Mixer, {"residual", "hidden"}),
}
PROGRAMS = {name: program(module) for name, (module, _) in PARTS.items()}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(PARTS)), st.randoms(use_true_random=False))
def test_a_unit_that_nothing_reads_is_as_good_as_gone(name, source):
    found = PROGRAMS[name]
    axis = source.choice([axis for axis in free(found) if axis.role in PARTS[name][1]])
    keep = some(axis, source)
    expected = logits(slice_axis(found, axis, keep), images(2))
    torch.testing.assert_close(unread(found, axis, keep, images(2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", models(("deit_tiny",)))
def test_a_unit_of_a_model_that_nothing_reads_is_as_good_as_gone(name):
    found, source = split_projections(prepared(name)), random.Random(2)
    shape = tuple(int(size) for size in found.input_shape[1:])
    batch = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for role in ("value", "query-key", "heads"):
        axes = [axis for axis in free(found) if axis.role == role]
        if axes:
            axis = source.choice(axes)
            keep = some(axis, source)
            expected = logits(slice_axis(found, axis, keep), batch)
            atol = 1e-4 * float(expected.abs().max())
            torch.testing.assert_close(unread(found, axis, keep, batch), expected, rtol=1e-4, atol=atol)
