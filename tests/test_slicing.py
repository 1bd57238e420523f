"""A sliced Program computes what the whole one does with everything zero that was dropped."""

from __future__ import annotations

import functools
import random
from collections.abc import Collection
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.slicing import slice_axes, slice_axis
from tests import zoo
from tests.conformance import program_of as zoo_program
from tests.masking import masked
from tests.rewrites.helpers import program_of

SIZED = (3, 8, 8)
# Plain, with convolutions before tokens, and with a feature map between: the others are the same but slow.
FEW = ("deit_tiny", "hf_levit", "mobilevit_xxs")
# Attention over channels, and in windows.
OTHERS = ("edgenext_xxs", "hf_swin")
# Those whose query, key and value are the result of one layer, taken apart by an unbind.
FUSED = ("deit_tiny", "mobilevit_xxs", "edgenext_xxs", "swin_tiny")


def models(fast: Collection[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in zoo.MODELS]


@functools.cache
def prepared(name: str) -> Program:
    return prepare_for_export(zoo_program(name))


def images_of(program: Program) -> torch.Tensor:
    image = program.graph.find_nodes(op="placeholder")[-1]
    return zoo.example(tuple(image.meta["val"].shape[1:]))


def free(program: Program) -> list[Axis]:
    return [axis for axis in find_axes(program) if not axis.fixed]


def some(axis: Axis, source: random.Random) -> list[int]:
    return sorted(source.sample(range(axis.size), source.randint(1, axis.size - 1)))


def logits(program: Program, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(program.run(images.numpy())[0])


def check_law(program: Program, keep: dict[Axis, list[int]], images: torch.Tensor) -> torch.Tensor:
    expected = masked(program, keep, images)
    found = logits(slice_axes(program, keep), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return expected


def check_every_axis(program: Program, images: torch.Tensor) -> None:
    """The law for each free axis by itself, and that each is of consequence; all failures in one report."""
    source, whole, failures = random.Random(2), logits(program, images), []
    for axis in free(program):
        try:
            expected = check_law(program, {axis: some(axis, source)}, images)
        except (AssertionError, EdgevitError, RuntimeError, ValueError) as error:
            failures.append(f"{axis.name} of {axis.size}: {error}")
        else:
            # Where a query has one token to attend to, it attends to it whatever it is.
            if axis.role != "query-key" and torch.equal(expected, whole):
                failures.append(f"{axis.name} of {axis.size}: is of no consequence")
    assert not failures, "\n".join([f"{len(failures)} of {len(free(program))} axes fail", *failures])


@pytest.mark.parametrize("name", models(FEW))
def test_a_slice_of_any_axis_is_the_whole_with_the_rest_zero(name):
    program, source = prepared(name), random.Random(0)
    images = images_of(program)
    by_role: dict[str, list[Axis]] = {}
    for axis in free(program):
        by_role.setdefault(axis.role, []).append(axis)
    assert "residual" in by_role
    whole = logits(program, images)
    for axes in by_role.values():
        axis = source.choice(axes)
        keep = {axis: some(axis, source)}
        check_law(program, keep, images)
        # Where a query has one token to attend to, it attends to it whatever it is.
        if axis.role != "query-key":
            assert not torch.equal(masked(program, keep, images), whole), f"{axis.name} is of no consequence"


@pytest.mark.parametrize("name", models((*FEW, *OTHERS)))
def test_all_axes_can_be_sliced_at_once(name):
    program, source = prepared(name), random.Random(1)
    keep, images = {axis: some(axis, source) for axis in free(program)}, images_of(program)
    check_law(program, keep, images)
    assert not torch.equal(masked(program, keep, images), logits(program, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.TIMM)
def test_a_slice_of_every_axis_by_itself_is_the_whole_with_the_rest_zero(name):
    program = prepared(name)
    check_every_axis(program, images_of(program))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_a_slice_of_every_axis_of_split_projections(name):
    program = split_projections(prepared(name))
    assert len(free(program)) > len(free(prepared(name)))
    # EdgeNeXt's attention is over channels: a softmax is taken over the key's, which are the value's.
    assert name == "edgenext_xxs" or {"query-key", "value"} <= {axis.role for axis in free(program)}
    check_every_axis(program, images_of(program))


class Block(nn.Module):
    """A network of one attention and one MLP, whose axes can be told apart by their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12)
        self.qk, self.v, self.out = nn.Linear(12, 2 * 3 * 5), nn.Linear(12, 3 * 7), nn.Linear(3 * 7, 12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        normal = self.norm(tokens)
        query, key = (part.unflatten(-1, (3, 5)).transpose(1, 2) for part in self.qk(normal).chunk(2, dim=-1))
        value = self.v(normal).unflatten(-1, (3, 7)).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        return self.head((tokens + self.down(self.up(tokens).relu())).mean(1))


@pytest.fixture(scope="module")
def block() -> Program:
    torch.manual_seed(0)
    return prepare_for_export(program_of(Block(), SIZED))


def by_size(program: Program) -> dict[int, Axis]:
    return {axis.size: axis for axis in free(program)}


def test_the_axes_of_a_block_and_what_they_are(block):
    roles = {axis.size: axis.role for axis in find_axes(block) if not axis.fixed}
    assert roles == {12: "residual", 3: "heads", 5: "query-key", 7: "value", 20: "hidden"}


def test_what_belongs_to_the_outside_is_fixed_with_its_reason():
    program = prepare_for_export(program_of(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), SIZED))
    fixed = {axis.size: axis.fixed for axis in find_axes(program)}
    assert fixed == {3: "it is the image", 5: "it is the result", 8: "it is the extent of a kernel"}


def test_an_operator_without_a_rule_fixes_what_it_reads_and_is_named():
    def model(image: torch.Tensor) -> torch.Tensor:
        return torch.sort(layer(image.mean((2, 3))), dim=-1).values.sum(-1)

    layer = nn.Linear(3, 6)
    module = nn.Sequential()
    module.layer, module.forward = layer, model
    program = prepare_for_export(program_of(module, SIZED))
    axis = next(axis for axis in find_axes(program) if axis.size == 6)
    assert axis.fixed == "aten.sort.default is not known to slicing"


class Mislaid(nn.Module):
    """(b, 10, 3, 7) becomes (b, 3, 10, 7), which no permutation does."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.head = nn.Conv2d(3, 10, 4, 2), nn.Linear(3, 7), nn.Linear(7, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.up(image)).reshape(-1, 3, 10, 7).sigmoid().amax((1, 2)))


def test_a_reshape_that_fits_nowhere_leaves_free_what_follows_it():
    program = prepare_for_export(program_of(Mislaid(), SIZED))
    reasons = {axis.size: axis.fixed for axis in find_axes(program)}
    assert reasons[7] is None
    assert reasons[10] == "it is laid out in two ways that have no parts in common"
    check_every_axis(program, images_of(program))


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.sampled_from([3, 5, 7, 12, 20]), min_size=1))
def test_the_law_for_any_axes_and_indices(block, source, sizes):
    axes = by_size(block)
    images = torch.randn(2, *SIZED, generator=torch.Generator().manual_seed(0))
    check_law(block, {axes[size]: some(axes[size], source) for size in sorted(sizes)}, images)


def test_keeping_everything_changes_nothing(block):
    images = torch.randn(2, *SIZED)
    found = slice_axes(block, {axis: range(axis.size) for axis in free(block)})
    torch.testing.assert_close(logits(found, images), logits(block, images), rtol=0, atol=0)


def test_the_original_stays_as_it_is(block):
    before = {path: tuple(value.shape) for path, value in block.exported.state_dict.items()}
    slice_axis(block, by_size(block)[20], [0])
    assert {path: tuple(value.shape) for path, value in block.exported.state_dict.items()} == before


def test_slices_of_slices(block):
    once = slice_axis(block, by_size(block)[20], [1, 4, 9, 16])
    twice = slice_axis(once, by_size(once)[4], [0, 3])
    images = torch.randn(2, *SIZED)
    direct = slice_axis(block, by_size(block)[20], [1, 16])
    torch.testing.assert_close(logits(twice, images), logits(direct, images))


def test_what_is_sliced_can_be_saved_and_loaded(block, tmp_path):
    small = slice_axis(block, by_size(block)[7], [2, 3])
    small.save(tmp_path / "small.pt2")
    images = torch.randn(2, *SIZED)
    torch.testing.assert_close(logits(Program.load(tmp_path / "small.pt2"), images), logits(small, images))


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ([], "no index is left of 20"),
        ([1, 1], "different, in ascending order"),
        ([3, 2], "different, in ascending order"),
        ([20], "from 0 to 19"),
        ([-1], "from 0 to 19"),
    ],
)
def test_indices_that_are_none_are_refused(block, keep, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        slice_axis(block, by_size(block)[20], keep)


def test_an_axis_of_another_program_is_refused(block):
    axis = by_size(block)[20]
    small = slice_axis(block, axis, [0, 1])
    with pytest.raises(EdgevitError, match="is no axis of model"):
        slice_axis(small, axis, [0])


def test_an_axis_that_is_fixed_is_refused_with_its_reason(block):
    kernel = next(axis for axis in find_axes(block) if axis.fixed == "it is the extent of a kernel")
    with pytest.raises(EdgevitError, match="it is the extent of a kernel"):
        slice_axis(block, kernel, [0])
