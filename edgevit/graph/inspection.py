"""What is in a Program: its operators, its size, and what it costs to run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from edgevit.graph.card import Card
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program, Shape


@dataclass(frozen=True)
class OperatorCount:
    """Nodes of one ATen operator."""

    operator: str
    count: int


@dataclass(frozen=True)
class Inspection:
    """A Program at a glance.

    Attributes:
        card: its card.
        input_shapes: by input name, "batch" standing for a dynamic one.
        output_shapes: by output name.
        parameters: number of trainable values.
        weight_bytes: bytes of all weights and buffers.
        macs: multiply-accumulates of matrix products and convolutions for one image.
        operators: ATen operators, most frequent first.
    """

    card: Card
    input_shapes: dict[str, tuple[int | str, ...]]
    output_shapes: dict[str, tuple[int | str, ...]]
    parameters: int
    weight_bytes: int
    macs: int
    operators: tuple[OperatorCount, ...]


def inspect(program: Program | str | Path) -> Inspection:
    """Look into a Program.

    Args:
        program: the Program, or its ``.pt2``.

    Raises:
        EdgevitError: when the file cannot be read.
    """
    program = program if isinstance(program, Program) else Program.load(program)
    counts = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    tensors = [*program.exported.state_dict.values(), *program.exported.constants.values()]
    return Inspection(
        card=program.card,
        input_shapes=_by_name(program.card.inputs, program.input_shapes),
        output_shapes=_by_name(program.card.outputs, program.output_shapes),
        parameters=program.parameter_count,
        weight_bytes=sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor)),
        macs=count_macs(program),
        operators=tuple(OperatorCount(name, count) for name, count in counts.most_common()),
    )


def _by_name(names: tuple[str, ...], shapes: tuple[Shape, ...]) -> dict[str, tuple[int | str, ...]]:
    return {
        name: tuple(size if isinstance(size, int) else "batch" for size in shape)
        for name, shape in zip(names, shapes, strict=True)
    }


def describe_count(value: float) -> str:
    """A count with a decimal prefix.

    >>> describe_count(5717416), describe_count(12), describe_count(1.26e9)
    ('5.72 M', '12', '1.26 G')
    """
    if value < 1000:
        return f"{value:g}"
    power = min(int(math.log10(value) // 3), 4)
    return f"{value / 1000**power:.2f} {' kMGT'[power]}"
