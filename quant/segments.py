"""The graph as a row of segments, cut where the fewest values are still to be read.

Between two residual branches of a vision transformer one value is live: the residual stream. Where a skip
passes by (MobileViT keeps its input for the fusion) or two streams run side by side (Mobile-Former,
CrossViT) it is two, inside a branch always more. So the graph, in the order in which it runs, is cut
wherever the number of live values is least, and every piece is cut again in the same way as long as that
lays bare a residual branch. What is left whole is a residual branch, a fork whose ways meet again, or one
operator of a chain. No module or model name is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call, same_shape, shape_of
from edgevit.quant.mixing import (
    ACTIVATIONS,
    CONVOLUTIONS,
    COPIES,
    factors,
    is_depthwise,
    mixes_values,
    overlaps,
)

aten = torch.ops.aten

Span = tuple[int, int]

ADDITIONS = frozenset({aten.add.Tensor, aten.add_.Tensor})


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive nodes of the graph that depend on the image.

    Attributes:
        nodes: in graph order.
        inputs: nodes of earlier segments (or the image) that it reads.
        outputs: its nodes that a later segment reads, or that the graph returns.
        carried: the input that it adds its result to, where it is a residual branch.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    carried: Node | None

    @property
    def residual(self) -> bool:
        """Whether it adds its result to what it was given."""
        return self.carried is not None

    @cached_property
    def trunk(self) -> Node:
        """The input that its output continues: what it adds to, or else what has its shape, or the latest."""
        if self.carried is not None:
            return self.carried
        alike = [node for node in self.inputs if _same_shape(node, self.outputs[-1])]
        return (alike or self.inputs)[-1]

    @cached_property
    def attends(self) -> bool:
        """Whether values that depend on the image weigh others that do, and are summed: attention."""
        known = {*self.nodes, *self.inputs}
        return any(mixes_values(node, known) for node in self.nodes)

    @cached_property
    def convolutions(self) -> tuple[Node, ...]:
        """Its convolutions, pointwise ones as well."""
        return tuple(node for node in self.nodes if is_call(node, CONVOLUTIONS))

    @cached_property
    def layers(self) -> tuple[Node, ...]:
        """Its contractions with something that does not depend on the image: the weights."""
        known = {*self.nodes, *self.inputs}
        return tuple(node for node in self.nodes if not all(factor in known for factor in factors(node)))

    @cached_property
    def activates(self) -> bool:
        """Whether an activation function is among its nodes."""
        return any(is_call(node, ACTIVATIONS) for node in self.nodes)

    @cached_property
    def gates(self) -> bool:
        """Whether its layers only decide what becomes of what it is given.

        A squeeze-and-excitation (arXiv 1709.01507) and a dynamic ReLU (arXiv 2003.10027) do: what they
        scale reaches the output without passing a layer. They stand where an activation could.
        """
        if self.residual or self.attends or not (self.activates and self.layers):
            return False
        untouched = {self.trunk}
        for node in self.nodes:
            if node not in self.layers and untouched.intersection(node.all_input_nodes):
                untouched.add(node)
        return self.outputs[-1] in untouched

    @property
    def mixes_neighbours(self) -> bool:
        """Whether a convolution here reads overlapping neighbourhoods; a patch embedding does not."""
        return any(overlaps(node) for node in self.convolutions)

    @property
    def mixes_channels(self) -> bool:
        """Whether a layer here makes channels from several channels; a depthwise convolution does not."""
        return any(not is_depthwise(node) for node in self.layers)


def segments(program: Program) -> tuple[Segment, ...]:
    """Cut a program's graph into segments.

    Each node that depends on the image is in one of them; they follow each other in graph order.
    """
    return _Row(program).segments()


def activations(program: Program) -> tuple[Node, ...]:
    """The image and every node with a tensor that depends on it, in graph order."""
    images = set(program.exported.graph_signature.user_inputs)
    found: dict[Node, None] = {}
    for node in program.graph.nodes:
        reads_one = any(source in found for source in node.all_input_nodes)
        is_image = node.op == "placeholder" and node.name in images
        if is_image or (node.op == "call_function" and reads_one and _tensors(node)):
            found[node] = None
    return tuple(found)


class _Row:
    """Where the graph can be cut, by how long each of its values is read."""

    def __init__(self, program: Program) -> None:
        self.order = activations(program)
        self.position = {node: index for index, node in enumerate(self.order)}
        self.output = program.graph.output_node()
        self.live = self._live()

    def segments(self) -> tuple[Segment, ...]:
        start = sum(node.op == "placeholder" for node in self.order)
        return tuple(self._segment(span) for span in self._cut((start, len(self.order))))

    def _live(self) -> list[int]:
        """After each node, how many tensors a later node reads."""
        changes = [0] * (len(self.order) + 1)
        for node, made in self.position.items():
            changes[made] += _tensors(node)
            changes[self._last_read(node)] -= _tensors(node)
        return list(accumulate(changes))

    def _last_read(self, node: Node) -> int:
        made, end = self.position[node], len(self.order)
        reads = [end if user is self.output else self.position.get(user, made) for user in node.users]
        return max([made, *reads])

    def _cut(self, span: Span) -> list[Span]:
        start, stop = span
        between = range(start, stop - 1)
        if not between:
            return [span] if start < stop else []
        least = min(self.live[index] for index in between)
        cuts = [index + 1 for index in between if self.live[index] == least]
        pieces = list(pairwise([start, *cuts, stop]))
        # One value between two pieces is all that the second can depend on.
        if least > 1 and all(self._carried(piece) is None for piece in pieces):
            return [span]
        return [inner for piece in pieces for inner in self._cut(piece)]

    def _segment(self, span: Span) -> Segment:
        nodes = self.order[slice(*span)]
        inside = set(nodes)
        read = {source for node in nodes for source in node.all_input_nodes}
        outputs = tuple(node for node in nodes if any(self._is_later(user, span[1]) for user in node.users))
        return Segment(
            nodes=nodes,
            inputs=tuple(sorted(read.intersection(self.position) - inside, key=self.position.__getitem__)),
            # A result that nobody reads, such as an unused part of a split, is still what the nodes give.
            outputs=outputs or nodes[-1:],
            carried=self._carried(span),
        )

    def _is_later(self, user: Node, stop: int) -> bool:
        return user is self.output or self.position.get(user, -1) >= stop

    def _carried(self, span: Span) -> Node | None:
        """What a piece is given and adds to something it makes of it."""
        for node in self.order[slice(*span)]:
            if not is_call(node, ADDITIONS):
                continue
            for kept, made in (node.args[:2], node.args[1::-1]):
                source = self._copied_from(kept, span[0])
                if source is not None and self._depends(made, source, span[0]):
                    return source
        return None

    def _copied_from(self, value: object, start: int) -> Node | None:
        """The node before `start` that `value` is a copy of."""
        while isinstance(value, Node) and self.position.get(value, -1) >= start:
            if not is_call(value, COPIES):
                return None
            value = value.args[0]
        return value if isinstance(value, Node) and value in self.position else None

    def _depends(self, value: object, source: Node, start: int) -> bool:
        """Whether nodes from `start` on make `value` of `source`."""
        waiting, seen = [value], set[Node]()
        while waiting:
            node = waiting.pop()
            if node in seen or not isinstance(node, Node) or self.position.get(node, -1) < start:
                continue
            if source in node.all_input_nodes:
                return True
            seen.add(node)
            waiting.extend(node.all_input_nodes)
        return False


def _tensors(node: Node) -> int:
    """How many tensors the node gives."""
    value = node.meta.get("val")
    parts = value if isinstance(value, tuple | list) else (value,)
    return sum(isinstance(part, torch.Tensor) for part in parts)


def _same_shape(left: Node, right: Node) -> bool:
    values = (left.meta["val"], right.meta["val"])
    return all(isinstance(value, torch.Tensor) for value in values) and same_shape(
        shape_of(left), shape_of(right)
    )
