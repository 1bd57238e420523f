"""How much memory the activations of a graph take while it runs, call after call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from edgevit.graph.crossing import QUANTIZE, Values
from edgevit.graph.rewrites.merge_reshapes import RESHAPES
from edgevit.graph.rewriting import is_call

aten = torch.ops.aten

# Activations that become the bounds of a kernel's integers.
_BOUNDS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default})


def live_bytes(values: Values, order: Sequence[Node], results: Sequence[Node]) -> list[int]:
    """Bytes of one image's share of all values that are there while each call runs.

    A value is there from the call that makes it to the last that reads it, a result to the end. A reshape is
    its source under another name; everything else, a transpose too, has memory of its own, as in runtimes for
    devices. Where a result is quantized at once, the kernel for integers writes those. Not counted are
    what is computed from parameters alone, and the floats that integers are read as.

    Args:
        values: of the graph.
        order: of what is computed, each behind all that it reads.
        results: what the graph gives.
    """
    memory: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for place, node in enumerate(order):
        sources = values.read_by(node)
        memory[node] = memory[sources[0]] if sources and _is_its_source(node, sources[0]) else node
        for used in (node, *sources):
            last[memory[used]] = place
    last |= {memory[result]: len(order) for result in results if result in memory}
    ends: list[list[Node]] = [[] for _ in range(len(order) + 1)]
    for node, place in last.items():
        ends[place].append(node)
    found, live = [], 0
    for place, node in enumerate(order):
        live += _bytes_written(values, node) if memory[node] is node else 0
        found.append(live)
        live -= sum(_bytes_written(values, ended) for ended in ends[place])
    return found


def _is_its_source(node: Node, source: Node) -> bool:
    """Whether a call's result is what it reads, under another name or written as it is by the same kernel."""
    if is_call(node, RESHAPES):
        return True
    return is_call(node, {QUANTIZE, *_BOUNDS}) and _quantizer(source) is not None


def _bytes_written(values: Values, node: Node) -> int:
    return values.bytes_of(_quantizer(node) or node)


def _quantizer(node: Node) -> Node | None:
    """What makes integers of a call's result before anything else reads it; None where nothing does."""
    readers = list(node.users)
    if node.op != "call_function" or not readers:
        return None
    found = [
        reader if is_call(reader, [QUANTIZE]) else _quantizer(reader) if is_call(reader, _BOUNDS) else None
        for reader in readers
    ]
    return None if None in found else found[0]
