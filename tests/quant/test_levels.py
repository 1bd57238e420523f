"""Levels of operations, and the groups of values that share a grid."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, Node

from edgevit.quant.grids import UNIT_INTERVAL
from edgevit.quant.levels import (
    Level,
    Levels,
    gives_integers,
    groups,
    is_read_as_integer,
    needs_grid,
    reads_integers,
    with_moves,
    without,
)
from edgevit.quant.operators import can_be_integer, is_activation, is_layer
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from tests.quant.helpers import Folded, Net, Tokens, all_named, grouped, named, prepared, seeded
from tests.rewrites.helpers import Function

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}
W8A8 = bit_widths("w8a8")


def full(graph: Graph) -> dict[str, Level]:
    return place(graph, "full", W8A8)


def with_grids(graph: Graph, levels: Levels) -> set[str]:
    return {name for group in groups(graph, levels) for name in group.values}


@st.composite
def placed(draw: st.DrawFn) -> tuple[Graph, dict[str, Level]]:
    """A graph, and any level that each operation can have."""
    graph = PROGRAMS[draw(st.sampled_from(list(PROGRAMS)))].graph
    levels: dict[str, Level] = {}
    for node in graph.nodes:
        choices = list(Level) if is_layer(node) else [Level.FLOAT, Level.INTEGER]
        if can_be_integer(node):
            levels[node.name] = draw(st.sampled_from(choices))
    return graph, levels


@settings(max_examples=60, deadline=None)
@given(placed())
def test_every_value_that_needs_a_grid_is_in_exactly_one_group(case):
    graph, levels = case
    members = [name for group in groups(graph, levels) for name in group.values]
    assert len(members) == len(set(members))
    assert set(members) == {n.name for n in graph.nodes if is_activation(n) and needs_grid(n, levels)}


@settings(max_examples=60, deadline=None)
@given(placed())
def test_moving_integers_alone_is_done_in_integers_and_once_is_enough(case):
    graph, levels = case
    found = with_moves(graph, levels)
    assert with_moves(graph, found) == found
    assert {name: level for name, level in found.items() if levels.get(name) != level}.keys() <= {
        node.name for node in graph.nodes if not is_layer(node)
    }


@settings(max_examples=60, deadline=None)
@given(placed(), st.data())
def test_a_layer_that_goes_back_to_float_needs_no_grid_that_was_not_there(case, data):
    graph, levels = case
    layer = data.draw(st.sampled_from([node for node in graph.nodes if is_layer(node)]))
    found = without(graph, levels, layer.name)
    assert layer.name not in found
    assert with_grids(graph, found) <= with_grids(graph, levels)
    assert found.items() <= levels.items()


@settings(max_examples=60, deadline=None)
@given(placed(), st.data())
def test_a_float_layers_output_has_a_grid_only_where_an_integer_reader_wants_it(case, data):
    graph, levels = case
    layer: Node = data.draw(st.sampled_from([node for node in graph.nodes if is_layer(node)]))
    found = without(graph, levels, layer.name)
    wanted = any(is_read_as_integer(layer, user, found) for user in layer.users)
    assert (layer.name in with_grids(graph, found)) == wanted
    assert not gives_integers(layer, found)


def test_a_layer_that_goes_float_takes_along_what_only_moves_its_output():
    program = PROGRAMS[Tokens]
    levels = place(program.graph, "layers", W8A8)
    qkv = all_named(program, "linear")[0]
    parts = {node.name for node in program.graph.nodes if "getitem" in str(node.target)}
    assert parts <= levels.keys()
    assert not parts & without(program.graph, levels, qkv.name).keys()


def test_a_layer_that_goes_float_leaves_what_moves_other_integers():
    graph = PROGRAMS[Folded].graph
    levels = full(graph)
    head = named(PROGRAMS[Folded], "linear")
    others = {node.name for node in graph.nodes if node.name in levels} - {head.name}
    lost = others - without(graph, levels, head.name).keys()
    assert lost == {"relu"}


def test_the_activation_that_a_layer_absorbs_goes_float_with_it():
    program = PROGRAMS[Net]
    levels = full(program.graph)
    stem, relu = named(program, "conv2d"), named(program, "relu")
    assert relu.name in levels
    found = without(program.graph, levels, stem.name)
    assert relu.name not in found
    assert relu.name in with_grids(program.graph, found)
    assert stem.name not in with_grids(program.graph, found)


def test_nothing_is_rounded_between_a_layer_and_the_activation_it_absorbs():
    program = PROGRAMS[Net]
    levels = full(program.graph)
    stem, relu = named(program, "conv2d"), named(program, "relu")
    assert not gives_integers(stem, levels)
    assert not reads_integers(relu, levels)
    assert gives_integers(relu, levels)
    assert stem.name not in with_grids(program.graph, levels)


def test_a_layer_that_something_else_reads_as_well_absorbs_nothing():
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.conv(x)
            return (made.relu() + made).mean((2, 3))

    program = prepared(TwoReaders())
    levels = full(program.graph)
    assert gives_integers(named(program, "conv2d"), levels)
    assert reads_integers(named(program, "relu"), levels)


def test_an_activation_that_no_kernel_absorbs_gets_its_input_rounded():
    program = prepared(seeded(lambda: Net(nn.GELU)))
    levels = full(program.graph)
    assert named(program, "conv2d").name in with_grids(program.graph, levels)


def test_values_share_a_grid_across_reshapes():
    program = prepared(lambda x: (x + 1).reshape(-1, 3, 64).transpose(1, 2) * 2)
    levels = full(program.graph)
    add = named(program, "add").name
    shared = next(group for group in grouped(program, levels) if add in group)
    assert len(shared) == 3
    assert named(program, "mul").name not in shared


def test_all_that_is_concatenated_shares_a_grid():
    program = prepared(lambda x: torch.cat([x + 1, x * 2], dim=1).mean((2, 3)))
    levels = full(program.graph)
    names = {named(program, operator).name for operator in ("add", "mul", "cat")}
    assert names in grouped(program, levels)


def test_the_parts_of_a_split_share_the_grid_of_the_whole():
    def halves(x: torch.Tensor) -> torch.Tensor:
        first, second, third = (x + 1).unbind(1)
        return (first * second + third).flatten(1)

    program = prepared(halves)
    levels = full(program.graph)
    add = named(program, "add").name
    shared = next(group for group in grouped(program, levels) if add in group)
    assert len(shared & {node.name for node in program.graph.nodes if "getitem" in str(node.target)}) == 3


def test_a_softmax_and_a_sigmoid_have_the_one_grid_their_kernels_give():
    program = prepared(lambda x: (x.softmax(-1) + x.sigmoid()).mean((2, 3)))
    fixed = {group.values: group.fixed for group in groups(program.graph, full(program.graph))}
    for operator in ("softmax", "sigmoid"):
        assert fixed[named(program, operator).name,] == UNIT_INTERVAL


def test_a_fixed_grid_goes_along_with_what_moves_its_values():
    program = prepared(lambda x: (x.sigmoid().reshape(-1, 3, 64) * 2).mean(-1))
    levels = full(program.graph)
    group = next(g for g in groups(program.graph, levels) if named(program, "sigmoid").name in g.values)
    assert len(group.values) == 2
    assert group.fixed == UNIT_INTERVAL


def test_a_concatenation_with_other_values_does_not_put_them_on_a_fixed_grid():
    def mixed(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.sigmoid().flatten(2), (x * 5).flatten(2)], dim=1).mean(-1)

    program = prepared(mixed)
    levels = full(program.graph)
    assert named(program, "cat").name not in levels
    found = {name: group for group in groups(program.graph, levels) for name in group.values}
    assert found[named(program, "sigmoid").name].fixed == UNIT_INTERVAL
    assert found[named(program, "mul").name].fixed is None


def test_a_concatenation_of_sigmoids_shares_their_grid():
    program = prepared(lambda x: torch.cat([x.sigmoid(), (x * 5).sigmoid()], dim=1).mean((2, 3)))
    levels = full(program.graph)
    shared = next(g for g in groups(program.graph, levels) if named(program, "cat").name in g.values)
    assert shared.fixed == UNIT_INTERVAL
    assert len(shared.values) == 3


def test_a_float_softmax_fixes_no_grid():
    program = prepared(lambda x: (x.softmax(-1) @ x).mean((2, 3)))
    levels = {named(program, "matmul").name: Level.INTEGER}
    assert [group.fixed for group in groups(program.graph, levels)] == [None, None, None]


def test_what_has_no_level_is_float():
    program = prepared(Function(lambda x: x.mean((2, 3))))
    assert groups(program.graph, {}) == ()
