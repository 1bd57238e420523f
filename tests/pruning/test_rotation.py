"""Heads in balanced coordinates: the same network, whose last units matter least."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.axes import Dimensions, find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.running import Runner
from edgevit.graph.slicing import slice_axis
from edgevit.pruning.rotation import balanced, rotate_heads
from tests.pruning.nets import Attention, axis_of, leaf_of, program
from tests.quant.helpers import all_named, images, logits, named, values
from tests.test_slicing import Block, models, prepared


def rotated(found: Program) -> tuple[Program, tuple[str, ...]]:
    return rotate_heads(found, images(24))


def check_same(found: Program, other: Program, batch: torch.Tensor) -> None:
    expected = logits(found, batch)
    atol = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits(other, batch), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spelled", [True, False])
def test_the_network_stays_what_it_is(heads, bias, spelled):
    found = program(lambda: Attention(heads, bias=bias, spelled=spelled))
    other, names = rotated(found)
    assert len(names) == 2
    assert set(names) <= {axis.name for axis in find_axes(other)}
    check_same(found, other, images(5, seed=1))
    assert other.batch is None


def test_what_is_turned_and_what_is_not():
    found = program(Attention)
    before = {path: value.clone() for path, value in found.exported.state_dict.items()}
    other, _ = rotated(found)
    after = other.exported.state_dict
    turned = {path for path, value in before.items() if not torch.equal(value, after[path])}
    weights = {f"{layer}.weight" for layer in ("q", "k", "v", "out")}
    assert turned == weights | {f"{layer}.bias" for layer in "qkv"}
    assert all(torch.equal(value, before[path]) for path, value in found.exported.state_dict.items())


class Fused(Attention):
    """One layer for all three, numbered by a dimension."""

    def __init__(self) -> None:
        super().__init__(2)
        self.qkv, self.out = nn.Linear(8, 3 * 2 * 5), nn.Linear(2 * 5, 8)

    def forward(self, image):
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, 2, 5)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.mix(query, key, value).transpose(1, 2).flatten(2)
        return self.head((tokens + self.out(mixed)).mean(1))


def test_a_fused_projection_is_turned_when_it_is_split_and_not_before():
    found = program(Fused)
    assert rotated(found) == (found, ())
    split = split_projections(found)
    other, names = rotated(split)
    assert len(names) == 2
    check_same(found, other, images(5, seed=1))


class Normed(Attention):
    """Queries and keys are normalized, head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)

    def mix(self, query, key, value):
        return super().mix(self.norm(query), self.norm(key), value)


class Rotary(Attention):
    """Queries and keys are multiplied by what depends on the place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(16, 5))

    def mix(self, query, key, value):
        return super().mix(query * self.waves, key * self.waves, value)


class ActivatedValues(Attention):
    def mix(self, query, key, value):
        return super().mix(query, key, value.relu())


class ActivatedResult(Attention):
    def mix(self, query, key, value):
        return super().mix(query, key, value).relu()


class LearnedScale(Attention):
    """Each unit of a query has a factor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5))

    def mix(self, query, key, value):
        return super().mix(query * self.scale, key, value)


class Relative(Attention):
    """A query is read twice: by the key and by what stands for distances."""

    def __init__(self) -> None:
        super().__init__()
        self.distances = nn.Parameter(torch.randn(5, 16))

    def mix(self, query, key, value):
        scores = query @ key.transpose(-2, -1) + query @ self.distances
        return scores.softmax(-1) @ value


class OneWeight(Attention):
    """Queries and keys are made by one layer, of different tokens."""

    def operands(self, tokens):
        return self.q(tokens), self.q(tokens.flip(1)), self.v(tokens)


class Symmetric(Attention):
    """A query is its own key."""

    def operands(self, tokens):
        query = self.q(tokens)
        return query, query, self.v(tokens)


class KeysAreValues(Attention):
    def __init__(self, *, spelled: bool = False) -> None:
        super().__init__(spelled=spelled)
        self.out = nn.Linear(2 * 5, 8)

    def operands(self, tokens):
        return self.q(tokens), self.k(tokens), tokens

    def by_head(self, value):
        return super().by_head(value) if value.shape[-1] == 10 else value

    def mix(self, query, key, value):
        return super().mix(query, key, key)


class ResultTwice(Attention):
    """What a head gives is read by the layer behind it and by the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 4)

    def forward(self, image):
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        operands = (self.by_head(value) for value in self.operands(tokens))
        mixed = self.mix(*operands).transpose(1, 2).flatten(2)
        return self.head((tokens + self.out(mixed)).mean(1)) + self.other(mixed.mean(1))


class SkippedValues(Attention):
    def mix(self, query, key, value):
        return super().mix(query, key, value) + value


class FewerKeys(Attention):
    """All heads share one key."""

    def __init__(self) -> None:
        super().__init__(spelled=True)
        self.k = nn.Linear(8, 5)

    def by_head(self, value):
        return value.unsqueeze(1) if value.shape[-1] == 5 else super().by_head(value)


class GroupsInAnotherOrder(Attention):
    """Six heads, numbered by two dimensions, whose order is another in the keys' layer."""

    def __init__(self) -> None:
        super().__init__(6, spelled=True)

    def forward(self, image):
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        query, key, value = self.operands(tokens)
        query, value = (part.unflatten(-1, (2, 3, -1)).permute(0, 2, 3, 1, 4) for part in (query, value))
        key = key.unflatten(-1, (3, 2, -1)).permute(0, 3, 2, 1, 4)
        mixed = self.mix(query, key, value).permute(0, 3, 1, 2, 4).flatten(2)
        return self.head((tokens + self.out(mixed)).mean(1))


LEFT_ALONE = {
    "a norm of queries": (Normed, {"value"}),
    "rotary places": (Rotary, {"value"}),
    "activated values": (ActivatedValues, {"query-key"}),
    "an activation behind": (ActivatedResult, {"query-key"}),
    "a learned scale": (LearnedScale, {"value"}),
    "relative places": (Relative, {"value"}),
    "one weight": (OneWeight, {"value"}),
    "a query that is its key": (Symmetric, {"value"}),
    "keys that are values": (KeysAreValues, set()),
    "keys that are values, spelled out": (lambda: KeysAreValues(spelled=True), set()),
    "a result read twice": (ResultTwice, {"query-key"}),
    "values that skip": (SkippedValues, {"query-key"}),
    "fewer keys": (FewerKeys, {"value"}),
    "heads in another order": (GroupsInAnotherOrder, {"value"}),
}


@pytest.mark.parametrize("name", sorted(LEFT_ALONE))
def test_where_something_stands_between_factors_they_are_left_alone(name):
    module, roles = LEFT_ALONE[name]
    found = program(module)
    other, names = rotated(found)
    assert {axis.role for axis in find_axes(other) if axis.name in names} == roles
    check_same(found, other, images(5, seed=1))
    assert other.parameter_count <= found.parameter_count


def test_a_program_without_heads_is_given_back():
    found = program(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4)))
    assert rotated(found) == (found, ())


@pytest.mark.parametrize("dead", ["q", "k", "v", "out"])
def test_layers_that_are_zero_can_be_turned(dead):
    def module():
        net = Attention()
        nn.init.zeros_(getattr(net, dead).weight)
        nn.init.zeros_(getattr(net, dead).bias)
        return net

    found = program(module)
    other, names = rotated(found)
    assert len(names) == 2
    check_same(found, other, images(5, seed=1))


def moment(width: int, rank: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rank, width, generator=generator, dtype=torch.float64) * scale
    return rows.T @ rows


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e3]))
def test_both_moments_become_the_same_diagonal_largest_first(width, seed, scale):
    left, right = moment(width, width + 4, seed), moment(width, width + 4, seed + 1, scale)
    turn, back = balanced(left, right)
    torch.testing.assert_close(turn @ back, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-9)
    diagonal = (turn.T @ left @ turn).diagonal()
    level = float(diagonal.max())
    torch.testing.assert_close(turn.T @ left @ turn, diagonal.diag(), rtol=0, atol=1e-8 * level)
    torch.testing.assert_close(back @ right @ back.T, diagonal.diag(), rtol=0, atol=1e-8 * level)
    assert diagonal.tolist() == sorted(diagonal.tolist(), reverse=True)


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 7), st.integers(0, 7), st.integers(0, 99))
def test_moments_without_an_inverse_are_turned_all_the_same(width, left_rank, right_rank, seed):
    turn, back = balanced(moment(width, left_rank, seed), moment(width, right_rank, seed + 1))
    torch.testing.assert_close(turn @ back, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.data())
def test_the_first_balanced_units_are_better_than_any_old_ones(width, data):
    """For independent factors, the expected squared error of their product without some units."""
    seed, kept = data.draw(st.integers(0, 99)), data.draw(st.integers(1, width - 1))
    left, right = moment(width, width + 3, seed), moment(width, width + 3, seed + 1)
    turn, back = balanced(left, right)
    last = turn[:, kept:] @ back[kept:]
    found = float((last.T @ left @ last * right).sum())
    for dropped in itertools.combinations(range(width), width - kept):
        inside = torch.tensor(dropped)
        assert found <= float((left[inside][:, inside] * right[inside][:, inside]).sum()) * (1 + 1e-4)


def scores_error(found: Program, keep: list[int], batch: torch.Tensor) -> float:
    """Of the scores, about each query's mean, which the softmax does not see."""
    axis = axis_of(found, "query-key")
    products = []
    for one in (found, slice_axis(found, axis, keep)):
        attention = named(one, "scaled_dot_product_attention")
        query, key = values(one, [node.name for node in attention.args[:2]], batch).values()
        scores = query @ key.transpose(-2, -1)
        products.append(scores - scores.mean(-1, keepdim=True))
    return float((products[0] - products[1]).square().sum())


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_the_first_units_of_a_rotated_head_are_better_than_any_of_the_original(kept):
    found = program(lambda: Attention(1))
    other, _ = rotated(found)
    first = scores_error(other, list(range(kept)), images(24))
    old = [scores_error(found, list(keep), images(24)) for keep in itertools.combinations(range(5), kept)]
    assert first <= min(old) * 1.05


def test_queries_and_keys_have_the_same_moments_then():
    found = program(Attention)
    other, _ = rotated(found)
    query, key = all_named(other, "linear")[:2]
    runner = Runner(other)
    with torch.no_grad():
        made = runner.run({runner.image: images(24)}, [query.name, key.name])
    left, right = made[query.name].double(), made[key.name].double()
    right = right - right.mean(1, keepdim=True)
    leaf = leaf_of(Dimensions(other), "query-key")
    for head in range(2):
        units = slice(head * leaf.size, (head + 1) * leaf.size)
        ours, theirs = (rows[..., units].flatten(0, 1) for rows in (left, right))
        one, two = ours.T @ ours, theirs.T @ theirs
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4 * float(one.max()))
        torch.testing.assert_close(one, one.diagonal().diag(), rtol=0, atol=1e-4 * float(one.max()))
        assert one.diagonal().tolist() == sorted(one.diagonal().tolist(), reverse=True)


def test_the_projection_of_a_block_that_is_cut_by_a_split_is_left_alone():
    found = program(Block)
    _, names = rotated(found)
    assert {axis.role for axis in find_axes(found) if axis.name in names} == {"value"}


@pytest.mark.parametrize("name", models(("deit_tiny",)))
def test_models_stay_what_they_are(name):
    found = split_projections(prepared(name))
    shape = tuple(int(size) for size in found.input_shape[1:])
    batch = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    other, names = rotate_heads(found, batch)
    if name == "deit_tiny":
        assert len(names) == 24
    check_same(found, other, batch[:3])
