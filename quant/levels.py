"""Where the graph computes in integers: a level for every operation, and the grids that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from torch.fx import Graph, Node

from edgevit.graph.rewriting import is_call
from edgevit.quant.grids import ActivationGrid
from edgevit.quant.operators import (
    FIXED,
    FUSED_ACTIVATIONS,
    MOVES,
    PRODUCTS,
    input_of,
    is_activation,
    is_layer,
)


class Level(IntEnum):
    """How much of an operation is computed on integers."""

    FLOAT = 0
    #: Its weight alone is stored as integers.
    WEIGHTS = 1
    #: It brings tokens to integers as it runs, multiplies those, gives floats: LiteRT's hybrid kernels.
    DYNAMIC = 2
    #: It multiplies integers on a grid that is known before, and gives floats: what ONNX Runtime's matrix
    #: kernels do fastest.
    INPUTS = 3
    #: Integers in, integers out: what TFLite's kernels and integer-only devices need.
    INTEGER = 4


Levels = Mapping[str, Level]


@dataclass(frozen=True)
class Group:
    """Values that share one grid, because operations that only move data stand between them.

    Attributes:
        values: names of nodes, in graph order.
        fixed: the grid, where a kernel dictates it.
    """

    values: tuple[str, ...]
    fixed: ActivationGrid | None = None


def level_of(node: Node, levels: Levels) -> Level:
    """An operation's level; FLOAT where none is set."""
    return levels.get(node.name, Level.FLOAT)


def gives_integers(node: Node, levels: Levels) -> bool:
    """Whether all that read the node find integers there."""
    return level_of(node, levels) == Level.INTEGER and not _is_absorbed(node, levels)


def written(node: Node, levels: Levels) -> Node:
    """Where an integer operation's result is found as integers: itself, or the activation that it absorbs."""
    return next(iter(node.users)) if _is_absorbed(node, levels) else node


def reads_integers(node: Node, levels: Levels) -> bool:
    """Whether the node reads its activations as integers."""
    return level_of(node, levels) >= Level.INPUTS and not _follows_absorbed(node, levels)


def with_moves(graph: Graph, levels: Levels) -> dict[str, Level]:
    """The levels, with every operation integer that moves nothing but integers, or that a layer absorbs.

    But not what would put values of any range on the one grid that a kernel gives to others.
    """
    result = dict(levels)
    for node in graph.nodes:
        sources = sources_of(node) if is_call(node, MOVES) else []
        if sources and all(gives_integers(source, result) for source in sources):
            result[node.name] = Level.INTEGER
        if any(_can_absorb(source, node) for source in _integer_sources(node, result)):
            result[node.name] = Level.INTEGER
        if len(_dictated(node, result)) > 1:
            del result[node.name]
    return result


def without(graph: Graph, levels: Levels, layer: str) -> dict[str, Level]:
    """The levels with one layer float, and with it what would be integer for nothing then.

    That is what it absorbs, what only moves its output, and what has floats alone before or behind it, and
    had integers at both sides. No value needs a grid afterwards that needed none before.
    """
    result = {name: level for name, level in levels.items() if name != layer}
    while lost := [node.name for node in graph.nodes if node.name in result and _lost(node, levels, result)]:
        for name in lost:
            del result[name]
    return result


def _lost(node: Node, before: Levels, after: Levels) -> bool:
    """Whether an integer operation has lost what made it worth while."""
    if is_layer(node) or is_call(node, PRODUCTS):
        return False
    if _follows_absorbed(node, before):
        return not _follows_absorbed(node, after)
    if is_call(node, MOVES):
        return _reads_any(node, before) and not _reads_any(node, after)
    return _is_between(node, before) and not _is_between(node, after)


def _reads_any(node: Node, levels: Levels) -> bool:
    return any(gives_integers(source, levels) for source in sources_of(node))


def _is_between(node: Node, levels: Levels) -> bool:
    """Whether it has integers at both sides."""
    return _reads_any(node, levels) and any(is_read_as_integer(node, user, levels) for user in node.users)


def computes_integers(node: Node, levels: Levels) -> bool:
    """Whether the node does arithmetic on integers, and not only moves them."""
    return level_of(node, levels) == Level.INTEGER and not is_call(node, MOVES)


def without_idle_moves(graph: Graph, levels: Levels) -> dict[str, Level]:
    """The levels with every move float that has no integers to move."""
    result = dict(levels)
    for node in graph.nodes:
        sources = sources_of(node) if is_call(node, MOVES) else []
        if sources and not any(gives_integers(source, result) for source in sources):
            result.pop(node.name, None)
    return result


def groups(graph: Graph, levels: Levels) -> tuple[Group, ...]:
    """The values that need a grid, together with those that share it."""
    quantized = [node for node in graph.nodes if is_activation(node) and needs_grid(node, levels)]
    parent: dict[Node, Node] = {node: node for node in quantized}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in quantized:
        for source in _moved(node, levels):
            if source in parent:
                first, second = sorted((root(node), root(source)), key=quantized.index)
                parent[second] = first
    members: dict[Node, list[Node]] = {}
    for node in quantized:
        members.setdefault(root(node), []).append(node)
    return tuple(_group(nodes, levels) for nodes in members.values())


def needs_grid(node: Node, levels: Levels) -> bool:
    """Whether anything reads the value, or anything of it, as integers."""
    return gives_integers(node, levels) or any(is_read_as_integer(node, user, levels) for user in node.users)


def is_read_as_integer(value: Node, user: Node, levels: Levels) -> bool:
    """Whether one of a value's users reads it as integers, and not as its weight or bias."""
    return reads_integers(user, levels) and (not is_layer(user) or input_of(user) is value)


def _group(nodes: list[Node], levels: Levels) -> Group:
    fixed = [FIXED[node.target] for node in nodes if node.target in FIXED and gives_integers(node, levels)]
    return Group(tuple(node.name for node in nodes), fixed[0] if fixed else None)


def _moved(node: Node, levels: Levels) -> list[Node]:
    """The values whose integers an integer move only puts elsewhere."""
    if not (is_call(node, MOVES) and gives_integers(node, levels)):
        return []
    sources = sources_of(node)
    # The parts of a split are read through a tuple, which is no tensor itself.
    return [
        origin for source in sources for origin in (sources_of(source) if _is_tuple(source) else [source])
    ]


def _dictated(node: Node, levels: Levels) -> set[ActivationGrid | None]:
    """The grids that kernels dictate for what a value is moved from; None among them where one is free."""
    sources = _moved(node, levels)
    if not sources:
        return {FIXED.get(node.target) if gives_integers(node, levels) else None}
    return {grid for source in sources for grid in _dictated(source, levels)}


def sources_of(node: Node) -> list[Node]:
    """The tensors that a node reads, and the tuples of tensors."""
    return [source for source in node.all_input_nodes if _is_tuple(source) or is_activation(source)]


def _integer_sources(node: Node, levels: Levels) -> list[Node]:
    return [source for source in node.all_input_nodes if level_of(source, levels) == Level.INTEGER]


def _is_tuple(node: Node) -> bool:
    return isinstance(node.meta.get("val"), tuple | list)


def _can_absorb(layer: Node, user: Node) -> bool:
    """Whether the one reader of a layer is an activation function that runtimes compute inside the layer."""
    return is_layer(layer) and len(layer.users) == 1 and is_call(user, FUSED_ACTIVATIONS)


def _is_absorbed(node: Node, levels: Levels) -> bool:
    user = next(iter(node.users), node)
    return _can_absorb(node, user) and level_of(user, levels) == Level.INTEGER


def _follows_absorbed(node: Node, levels: Levels) -> bool:
    if not is_call(node, FUSED_ACTIVATIONS):
        return False
    source = node.all_input_nodes[0]
    return level_of(source, levels) == Level.INTEGER and _is_absorbed(source, levels)
