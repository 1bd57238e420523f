"""The one record that operators of every format are read into, and how often each kind occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Scalar = str | int | float | bool
Format = Literal["onnx", "tflite", "coreml"]

# Axes, shapes, permutations and strides have no more; weights need not be looked at.
MOST_VALUES = 16


@dataclass(frozen=True)
class Operand:
    """An input or output of an operator.

    Attributes:
        slot: which one: its number, "0" the first, or its name where the format names inputs (Core ML).
        dtype: "float32", "float16", "int8", ...
        shape: its dimensions, None for one that is not fixed; None where not even the rank is known.
        constant: whether its values are in the file, or follow from such values alone.
        values: the values of a constant of few numbers; None for others.
    """

    slot: str
    dtype: str
    shape: tuple[int | None, ...] | None
    constant: bool = False
    values: tuple[int | float, ...] | None = None


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Attributes:
        kind: TFLite's builtin name, ONNX's op type (after its domain and a colon unless that is ONNX's
            own), or the kind of a Core ML operation.
        inputs: those that are given, in order.
        outputs: in order.
        attributes: those that are numbers or words; a fused activation is one.
    """

    kind: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def data(self) -> tuple[Operand, ...]:
        """What flows through it: the outputs and the inputs that are not constant."""
        return (*(operand for operand in self.inputs if not operand.constant), *self.outputs)


def printable(name: str) -> str:
    r"""A name from a file, safe to print: what cannot be seen, or would move a terminal's cursor, is a "?".

    >>> printable("Conv\x1b[2J")
    'Conv?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in name)


@dataclass(frozen=True)
class KindCount:
    """How often a kind of operator occurs."""

    kind: str
    count: int


def count_kinds(kinds: Iterable[str]) -> tuple[KindCount, ...]:
    """Kinds with their counts, most frequent first, then by name."""
    counts = sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0]))
    return tuple(KindCount(kind, count) for kind, count in counts)
