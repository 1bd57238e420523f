"""What stands between integers: operations that convert nothing at either side once they are integers."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from edgevit.graph.rewriting import is_call
from edgevit.quant.levels import Level, Levels, gives_integers, is_read_as_integer, sources_of, with_moves
from edgevit.quant.operators import MOVES, POINTWISE, SPELLED_OUT

aten = torch.ops.aten

# Products of two activations and softmax are integers only where a placement says so.
_CANDIDATES = (MOVES | POINTWISE | SPELLED_OUT) - {aten.softmax.int}


def with_enclosed(graph: Graph, levels: Levels) -> dict[str, Level]:
    """The levels, with every operation integer that integers alone surround, and what only moves them.

    A float operation there costs a dequantizer for each operand and a quantizer for its result. Of those
    that pass values on to each other, as many as can be are integer together.

    Args:
        graph: of a prepared program.
        levels: of its layers, above all.
    """
    result = with_moves(graph, levels)
    candidates = [node for node in graph.nodes if node.name not in result and is_call(node, _CANDIDATES)]
    result |= {node.name: Level.INTEGER for node in candidates}
    while exposed := [
        node.name for node in candidates if node.name in result and not _is_enclosed(node, result)
    ]:
        for name in exposed:
            del result[name]
    return with_moves(graph, result)


def _is_enclosed(node: Node, levels: Levels) -> bool:
    """Whether all that it reads and all that reads it are integers."""
    sources = sources_of(node)
    return (
        bool(sources)
        and all(gives_integers(source, levels) for source in sources)
        and all(is_read_as_integer(node, user, levels) for user in node.users)
    )
