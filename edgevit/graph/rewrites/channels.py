"""Where a tensor's channel axis comes from, across operators that only move values around."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from edgevit.graph.rewrites.merge_reshapes import PERMUTES, RESHAPES, permutation
from edgevit.graph.rewriting import Shape, is_call, same_size, shape_of

aten = torch.ops.aten

_ELEMENT_BY_ELEMENT = {aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default}
_DROPOUTS = {aten.dropout.default}


def channel_source(node: Node, axis: int) -> tuple[Node, int]:
    """Walk up from `node` while each value keeps its channel and nobody else reads the values.

    Args:
        node: where to start.
        axis: the channel axis of its result.

    Returns:
        The first node that does more than reshape, permute or copy, and the channel axis of its result.
    """
    while len(node.users) == 1 and (step := _source(node, axis)) is not None:
        node, axis = step
    return node, axis


def _source(node: Node, axis: int) -> tuple[Node, int] | None:
    """The node's input and the axis that holds the channels there; None where it does more than move."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in _ELEMENT_BY_ELEMENT or (node.target in _DROPOUTS and node.args[2] is False):
        return source, axis
    if is_call(node, PERMUTES):
        return source, permutation(node)[axis]
    if node.target in RESHAPES:
        found = _same_axis(shape_of(node), axis, shape_of(source))
        return None if found is None else (source, found)
    return None


def _same_axis(shape: Shape, axis: int, source: Shape) -> int | None:
    """The axis of `source` that a reshape to `shape` keeps whole as `axis`; None where there is none."""
    behind = math.prod(shape[axis + 1 :])
    for candidate in range(len(source)):
        if same_size(source[candidate], shape[axis]) and same_size(
            math.prod(source[candidate + 1 :]), behind
        ):
            return candidate
    return None
