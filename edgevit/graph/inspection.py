"""What is in a Program: its operators, its size, and what it costs to run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgevit.graph.card import Card
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program


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
        input_shape: the input's shape, "batch" standing for a dynamic one.
        output_shapes: by output name.
        parameters: number of trainable values.
        weight_bytes: bytes of all weights and buffers.
        macs: multiply-accumulates of matrix products and convolutions for one image.
        operators: ATen operators, most frequent first.
    """

    card: Card
    input_shape: tuple[int | str, ...]
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
        input_shape=_named(program.input_shape),
        output_shapes={
            name: _named(shape)
            for name, shape in zip(program.card.outputs, program.output_shapes, strict=True)
        },
        parameters=program.parameter_count,
        weight_bytes=sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor)),
        macs=count_macs(program),
        operators=tuple(OperatorCount(name, count) for name, count in counts.most_common()),
    )


def _named(shape: tuple[Any, ...]) -> tuple[int | str, ...]:
    return tuple(size if isinstance(size, int) else "batch" for size in shape)


def describe_count(value: float) -> str:
    """A count with a decimal prefix.

    >>> describe_count(5717416), describe_count(12), describe_count(1.26e9)
    ('5.72 M', '12', '1.26 G')
    """
    if value < 1000:
        return f"{value:g}"
    power = min(int(math.log10(value) // 3), 4)
    return f"{value / 1000**power:.2f} {' kMGT'[power]}"
