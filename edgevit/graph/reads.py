"""Where an axis ends: the operations that sum over its units, so that what they give does not have it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.axes import LAYERS, Axis, Dimensions
from edgevit.graph.dimensions import Dim
from edgevit.graph.rewriting import is_call

# What these give lacks a unit because they leave it to others, not because they sum over it.
_PARTS = frozenset({torch.ops.aten.slice.Tensor, operator.getitem})


@dataclass(frozen=True)
class Read:
    """An operation that sums over the units of an axis.

    To a network that reads a unit nowhere it is as if the unit were gone; but for norms, whose statistics it
    is still in.

    Attributes:
        node: the operation.
        source: the value in which it reads the axis.
        place: the value's dimension that the axis is, or is a part of.
        units: int64, one for each index of that dimension: the unit of the axis that it belongs to, or -1.
        by_layer: whether the other operand is a weight.
    """

    node: Node
    source: Node
    place: int
    units: torch.Tensor
    by_layer: bool


def reads(dimensions: Dimensions, leaf: Dim) -> tuple[Read, ...]:
    """Every operation that sums over an axis; of a product of two values, the first one.

    Args:
        dimensions: of the graph.
        leaf: the axis, as `Dimensions.axes` gives it.
    """
    return tuple(_reads(dimensions, leaf))


def readers_in_order(dimensions: Dimensions) -> list[tuple[Axis, tuple[Read, ...]]]:
    """The axes that may be sliced and what reads them, in the order of the network."""
    places = {node: place for place, node in enumerate(dimensions.of)}
    found = [(axis, reads(dimensions, leaf)) for axis, leaf in dimensions.axes().items() if not axis.fixed]
    return sorted(
        ((axis, readings) for axis, readings in found if readings),
        key=lambda pair: min(places[read.node] for read in pair[1]),
    )


def _reads(dimensions: Dimensions, leaf: Dim) -> Iterator[Read]:
    for node, dims in dimensions.of.items():
        if node.op != "call_function" or is_call(node, _PARTS) or _has(dims, leaf):
            continue
        for source in node.all_input_nodes:
            # A weight is no value that an error could be measured in.
            if source.op != "call_function" or source not in dimensions.of:
                continue
            places = [place for place, dim in enumerate(dimensions.of[source]) if _has(dim, leaf)]
            if places:
                units = dimensions.of[source][places[0]].index_of(leaf)
                yield Read(node, source, places[0], units, is_call(node, LAYERS))
                break


def _has(dims: object, leaf: Dim) -> bool:
    """Whether a dimension, or one of a list or of a tuple's lists, is made of the axis."""
    if isinstance(dims, list):
        return any(_has(dim, leaf) for dim in dims)
    return isinstance(dims, Dim) and any(found is leaf.root for found in dims.leaves())
