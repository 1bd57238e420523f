"""What stands between integers becomes integer, and nothing else does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, Node

from edgevit.quant.enclosing import with_enclosed
from edgevit.quant.levels import (
    Level,
    Levels,
    gives_integers,
    is_read_as_integer,
    sources_of,
    with_moves,
    without,
)
from edgevit.quant.operators import MOVES, is_layer
from tests.quant.helpers import Folded, Net, Tokens, all_named, named, prepared, seeded

INTEGER = Level.INTEGER


class Silus(nn.Module):
    """An inverted residual with SiLU and squeeze-and-excite, then a head behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.project = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = nn.functional.silu(self.stem(image))
        mixed = nn.functional.silu(self.mix(made))
        gated = mixed * self.squeeze(mixed.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(self.norm(self.last(made + self.project(gated)).mean((2, 3))))


PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded, Silus)}


def layers(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if is_layer(node)]


def all_integer(graph: Graph) -> dict[str, Level]:
    return {node.name: INTEGER for node in layers(graph)}


@st.composite
def placed(draw: st.DrawFn) -> tuple[Graph, dict[str, Level]]:
    """A graph, and any level that each layer can have."""
    graph = PROGRAMS[draw(st.sampled_from(list(PROGRAMS)))].graph
    levels = {node.name: draw(st.sampled_from(list(Level))) for node in layers(graph)}
    return graph, levels


@settings(max_examples=80, deadline=None)
@given(placed())
def test_what_is_added_has_integers_at_every_side(case):
    graph, levels = case
    found = with_enclosed(graph, levels)
    moved = with_moves(graph, levels)
    for node in graph.nodes:
        if node.name in found.keys() - moved.keys() and node.target not in MOVES:
            assert sources_of(node)
            assert all(gives_integers(source, found) for source in sources_of(node))
            assert all(is_read_as_integer(node, user, found) for user in node.users)


@settings(max_examples=80, deadline=None)
@given(placed())
def test_once_is_enough_and_layers_keep_their_levels(case):
    graph, levels = case
    found = with_enclosed(graph, levels)
    assert with_enclosed(graph, found) == found
    assert {node.name: found[node.name] for node in layers(graph)} == levels


@settings(max_examples=80, deadline=None)
@given(placed(), st.data())
def test_a_layer_that_goes_float_leaves_nothing_between_floats(case, data):
    graph, levels = case
    found = with_enclosed(graph, levels)
    layer = data.draw(st.sampled_from(layers(graph))).name
    left = without(graph, found, layer)
    added = found.keys() - with_moves(graph, levels).keys()
    for node in graph.nodes:
        if node.name in added & left.keys() and node.target not in MOVES:
            assert any(gives_integers(source, left) for source in sources_of(node))
            assert any(is_read_as_integer(node, user, left) for user in node.users)


def test_activations_sums_and_gates_between_integer_layers_are_integers():
    graph = PROGRAMS[Silus].graph
    found = with_enclosed(graph, all_integer(graph))
    between = [
        *all_named(PROGRAMS[Silus], "silu"),
        named(PROGRAMS[Silus], "sigmoid"),
        named(PROGRAMS[Silus], "mul"),
        named(PROGRAMS[Silus], "add"),
        all_named(PROGRAMS[Silus], "mean")[0],
    ]
    assert {node.name for node in between} <= found.keys()


def test_what_a_float_operation_reads_is_left_float():
    program = PROGRAMS[Silus]
    found = with_enclosed(program.graph, all_integer(program.graph))
    # A layer norm reads it.
    assert all_named(program, "mean")[-1].name not in found


def test_attention_is_left_float():
    program = PROGRAMS[Tokens]
    found = with_enclosed(program.graph, all_integer(program.graph))
    for operator in ("softmax", "matmul"):
        assert not {node.name for node in all_named(program, operator)} & found.keys()


def test_a_silu_goes_float_with_the_layer_before_it():
    program = PROGRAMS[Silus]
    levels: Levels = with_enclosed(program.graph, all_integer(program.graph))
    stem, first = named(program, "conv2d"), named(program, "silu")
    left = without(program.graph, levels, stem.name)
    assert levels.keys() - left.keys() == {stem.name, first.name}


def test_a_sum_stays_integer_while_one_of_its_sides_is():
    program = PROGRAMS[Silus]
    levels: Levels = with_enclosed(program.graph, all_integer(program.graph))
    project, last = all_named(program, "conv2d")[-2:]
    assert named(program, "add").name in without(program.graph, levels, project.name)
    assert named(program, "add").name not in without(program.graph, levels, last.name)
