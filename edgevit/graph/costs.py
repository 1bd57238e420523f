"""What a Program costs: multiply-accumulates and stored numbers, whole or with slices taken from its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgevit.graph.axes import LAYERS, Dimensions, stored_tensors
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call

aten = torch.ops.aten

Choices = Mapping[Dim, torch.Tensor]

_ATTENTION = frozenset({aten.scaled_dot_product_attention.default})


def macs_by_node(program: Program) -> dict[str, int]:
    """Multiply-accumulates of each call for one image, by torch's own counter."""
    counts: dict[str, int] = {}
    batch = program.batch or 1

    class _Counting(Interpreter):
        def run_node(self, n: Node) -> Any:
            before = counter.get_total_flops()
            value = super().run_node(n)
            counts[n.name] = int(counter.get_total_flops() - before) // 2 // batch
            return value

    # torch counts the attention kernels of GPUs, and not the one of a CPU: as matrix products it counts it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _Counting(program.module).run(*program.example(batch))
    return counts


def count_macs(program: Program) -> int:
    """Multiply-accumulates of matrix products, convolutions and attention for one image."""
    return sum(macs_by_node(program).values())


class Costs:
    """Costs of a program as functions of what is kept of its axes, without slicing it.

    Args:
        dimensions: of the program.
    """

    def __init__(self, dimensions: Dimensions) -> None:
        self._of = dimensions.of
        counts = macs_by_node(dimensions.program)
        self._macs = [(node, counts[node.name]) for node in dimensions.of if counts.get(node.name)]
        self._stored = [dimensions.of[node] for node, _, _ in stored_tensors(dimensions.program)]

    def macs(self, choices: Choices) -> int:
        """Multiply-accumulates for one image."""
        return round(sum(count * self._share(node, choices) for node, count in self._macs))

    def parameters(self, choices: Choices) -> int:
        """Numbers that are stored, buffers included."""
        return sum(math.prod(dim.left(choices) for dim in dims) for dims in self._stored)

    def _share(self, node: Node, choices: Choices) -> float:
        """What is left of a call's arithmetic, 0 to 1."""
        if node.target is aten.einsum.default:
            return _left(self._letters(node), choices)
        out, (first, second) = self._of[node], self._operands(node)
        if is_call(node, LAYERS):
            return _left([*out, second[1]], choices)
        if is_call(node, _ATTENTION):
            # One product over the width of queries, one that gives the width of values.
            widths: list[Dim] = [first[-1], out[-1]]
            left, size = sum(width.left(choices) for width in widths), sum(width.size for width in widths)
            return _left(out[:-1], choices) * left / size
        # A product; whatever else is counted, slicing has no rule for, and all its dimensions stay.
        return _left([*out, first[-1]], choices)

    def _operands(self, node: Node) -> list[list[Dim]]:
        """The dimensions of what is multiplied, be it one value twice."""
        return [self._of[argument] for argument in node.args[:2] if isinstance(argument, Node)]

    def _letters(self, node: Node) -> list[Dim]:
        """The dimension of each letter of an einsum."""
        equation, operands = node.args[:2]
        letters = str(equation).replace(" ", "").split("->")[0].split(",")
        dims: dict[str, Dim] = {}
        for word, operand in zip(letters, operands, strict=True):  # type: ignore[arg-type]
            dims |= zip(word, self._of[operand], strict=True)
        return list(dims.values())


def _left(dims: list[Dim], choices: Choices) -> float:
    return math.prod(dim.left(choices) / dim.size for dim in dims)
