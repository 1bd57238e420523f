"""What an operator asks of a device, in the few numbers by which operators of one kind differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

#: What runs a format, and is measured.
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}

#: Of one kind: more say little more, and take long to learn from.
MOST_SHAPES = 100


@dataclass(frozen=True)
class Operation:
    """One operator as a runtime runs it, which may be several of the file's fused.

    Of a matrix product the four numbers say all three sizes; of a convolution they say its geometry but for
    the stride, of what only moves data how much it moves.

    Attributes:
        kind: its name in the runtime, with what else decides which kernel runs: ``Conv depthwise float``.
        macs: multiply-accumulates.
        read: bytes of what the operators before it made.
        written: bytes of its results.
        weights: bytes of constants.
        resident: bytes of the weights of the whole model: those of a small one stay in the caches from run
            to run.
    """

    kind: str
    macs: int
    read: int
    written: int
    weights: int
    resident: int = 0

    @property
    def features(self) -> tuple[float, ...]:
        """The numbers alone; the last is no work of the operation's own."""
        numbers = (self.macs, self.read, self.written, self.weights, self.resident)
        return tuple(map(float, numbers))


def in_one_model(operations: Sequence[Operation]) -> list[Operation]:
    """Operations as those of one model, whose weights they share the caches with."""
    resident = sum(operation.weights for operation in operations)
    return [replace(operation, resident=resident) for operation in operations]


def depthwise(sides: Sequence[int], inputs: int, outputs: int) -> str:
    """A depthwise convolution by what decides its kernel.

    Runtimes have some for 9 and 25 weights a channel, and others, much slower, where a channel becomes
    several.

    Args:
        sides: of its kernel.
        inputs: channels.
        outputs: channels.

    >>> depthwise((3, 3), 8, 8), depthwise((7, 7), 8, 8), depthwise((3, 3), 8, 16)
    ('depthwise 9', 'depthwise larger', 'depthwise widening')
    """
    if outputs > inputs:
        return "depthwise widening"
    weights = math.prod(sides)
    found = next((str(limit) for limit in (1, 9, 25) if weights <= limit), "larger")
    return f"depthwise {found}"


@dataclass(frozen=True)
class Timed:
    """An operation that was measured.

    Attributes:
        operation: which.
        microseconds: of one run of it.
        families: of the models that have it.
    """

    operation: Operation
    microseconds: float
    families: frozenset[str]


def representative(alike: Sequence[Timed]) -> list[Timed]:
    """Of many shapes of one kind as many as say all, from the quickest to the slowest at even distances."""
    ordered = sorted(alike, key=lambda timed: timed.microseconds)
    count = min(len(ordered), MOST_SHAPES)
    places = np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))
    return [ordered[place] for place in places]
