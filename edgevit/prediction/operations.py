"""What an operator asks of a device, in the few numbers by which operators of one kind differ."""

from __future__ import annotations

from dataclasses import dataclass

#: What runs a format, and is measured.
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}


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
    """

    kind: str
    macs: int
    read: int
    written: int
    weights: int

    @property
    def features(self) -> tuple[float, ...]:
        """The numbers alone."""
        return (float(self.macs), float(self.read), float(self.written), float(self.weights))


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
