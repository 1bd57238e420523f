"""Quantized files against the float one they came from: accuracy, agreement, latency, size.

Everything is measured on the finished files, each in its own runtime with one thread, in one process. Files
of other tools have no card, and their inputs and outputs may be integers: both are dealt with here, by the
same few lines for every file, so that no file is helped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgevit.evaluation import percent
from edgevit.export.timing import PROCESSOR_TIME, Timing, time_in_turns
from edgevit.graph.predictions import divergence
from edgevit.graph.program import run_in_batches

Array = npt.NDArray[np.float32]

RUNS = 60
WARM_UP = 5
HEADER = (
    "| model | format | method | top-1 % | above float's, points | same prediction % | KL from float, nats "
    "| over float's latency | over float's size | quantized in s | peak MB |\n|" + "---|" * 11
)


@dataclass(frozen=True)
class Cost:
    """What quantizing took: processor seconds, and the peak memory (10^6 bytes) of the process doing it."""

    seconds: float
    peak_mb: float

    def cells(self) -> tuple[str, str]:
        """As in a `Row`."""
        return f"{self.seconds:.1f}", f"{self.peak_mb:.0f}"


@dataclass(frozen=True)
class Candidate:
    """A quantized file, or why there is none.

    Attributes:
        name: how it was made.
        path: the ``.onnx`` or ``.tflite`` file; None when quantizing failed.
        cost: of quantizing, where it is known.
        failure: the failure in words; None where there was none.
    """

    name: str
    path: Path | None
    cost: Cost | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Score:
    """What a file predicts, beside the labels and the float file.

    Attributes:
        accuracy: percent of images whose best class is right.
        gained: percent of images on which it is right and the float file is not.
        lost: percent of images on which only the float file is right.
        equal: percent of images whose best class is the float file's.
        divergence: mean KL(float file || file) of the class probabilities, in nats.
        images: how many.
    """

    accuracy: float
    gained: float
    lost: float
    equal: float
    divergence: float
    images: int

    @property
    def chance(self) -> float:
        """One standard deviation of `gained - lost`, in points.

        Of the images on which only one of both files is right, chance decides which (McNemar 1947).
        """
        return 10.0 * math.sqrt((self.gained + self.lost) / self.images)

    def cells(self) -> tuple[str, str, str, str]:
        """As in a `Row`."""
        above = f"{self.gained - self.lost:+.2f} ± {self.chance:.2f}"
        return f"{self.accuracy:.2f}", above, f"{self.equal:.1f}", f"{self.divergence:.5f}"


@dataclass(frozen=True)
class Row:
    """A candidate beside its float file, everything measured on the same images in the same process.

    Attributes:
        candidate: the file.
        score: None where no labels were given, or the candidate failed.
        latency: milliseconds of processor time of every timed run; None for a failure.
        float_latency: the same of the float file, its runs between the candidate's.
        size: bytes over the float file's bytes; None for a failure.
    """

    candidate: Candidate
    score: Score | None = None
    latency: Timing | None = None
    float_latency: Timing | None = None
    size: float | None = None

    @property
    def latency_ratio(self) -> float | None:
        """Median latency over the float file's."""
        if self.latency is None or self.float_latency is None:
            return None
        return self.latency.median / self.float_latency.median

    def markdown(self, model: str) -> str:
        """One line under `HEADER`."""
        made = self.candidate
        if made.failure is not None or made.path is None:
            return f"| {model} | | {made.name} | fails: {made.failure} |" + " |" * 7
        cells = (
            model,
            made.path.suffix.removeprefix("."),
            made.name,
            *(("",) * 4 if self.score is None else self.score.cells()),
            "" if self.latency_ratio is None else f"{self.latency_ratio:.2f}x",
            "" if self.size is None else f"{self.size:.2f}x",
            *(("",) * 2 if made.cost is None else made.cost.cells()),
        )
        return f"| {' | '.join(cells)} |"


class Runner(Protocol):
    """A file open in its runtime with one thread."""

    def run(self, images: Array) -> Array:
        """Logits (n, classes) float32 of prepared images (n, channels, height, width) float32."""

    def load(self, image: Array) -> None:
        """Make one image (1, channels, height, width) what `invoke` runs, in the file's own numbers."""

    def invoke(self) -> None:
        """Run the image that was loaded: what is timed."""


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()
        self.feed: dict[str, Array] = {}

    def run(self, images: Array) -> Array:
        batch = self.input.shape[0]
        fixed = isinstance(batch, int)
        (logits, *_) = run_in_batches(self._outputs, images, batch=batch if fixed else 32, fixed=fixed)
        return logits

    def _outputs(self, batch: Array) -> list[Array]:
        return list(self.session.run(None, {self.input.name: batch}))

    def load(self, image: Array) -> None:
        self.feed = {self.input.name: image}

    def invoke(self) -> None:
        self.session.run(None, self.feed)


class TfliteRunner:
    """A TFLite file in LiteRT on the CPU, integers at its ends quantized and dequantized as it says."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        self.output = self.interpreter.get_output_details()[0]

    def run(self, images: Array) -> Array:
        (logits,) = run_in_batches(self._logits, images, batch=int(self.input["shape"][0]), fixed=True)
        return logits

    def _logits(self, batch: Array) -> list[Array]:
        self.load(batch)
        self.invoke()
        return [dequantized(self.interpreter.get_tensor(self.output["index"]), self.output)]

    def load(self, image: Array) -> None:
        # A file's input may lie channels last.
        if image.shape[1:] != tuple(self.input["shape"][1:]):
            image = image.transpose(0, 2, 3, 1)
        self.interpreter.set_tensor(self.input["index"], quantized(image, self.input))

    def invoke(self) -> None:
        self.interpreter.invoke()


def quantized(values: Array, details: dict[str, Any]) -> npt.NDArray[Any]:
    """Real numbers as a TFLite tensor holds them, by its scale and zero point; as they are for float32.

    >>> quantized(np.array([0.26, -99.0]), {"dtype": np.int8, "quantization": (0.5, 3)})
    array([   4, -128], dtype=int8)
    """
    if details["dtype"] == np.float32:
        return np.ascontiguousarray(values)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])


def dequantized(stored: npt.NDArray[Any], details: dict[str, Any]) -> Array:
    """The real numbers that a TFLite tensor stands for.

    >>> dequantized(np.array([4, -128], np.int8), {"dtype": np.int8, "quantization": (0.5, 3)})
    array([  0.5, -65.5], dtype=float32)
    """
    if details["dtype"] == np.float32:
        return stored
    scale, zero_point = details["quantization"]
    real: Array = ((stored.astype(np.int32) - zero_point) * scale).astype(np.float32)
    return real


RUNNERS: dict[str, type[OnnxRunner] | type[TfliteRunner]] = {".onnx": OnnxRunner, ".tflite": TfliteRunner}


def open_runner(path: Path) -> Runner:
    """Open a file in its runtime, by its suffix."""
    return RUNNERS[path.suffix](path)


def measure(
    candidates: Sequence[Candidate],
    float_path: Path,
    images: Array,
    labels: Sequence[int] | None,
    *,
    runs: int = RUNS,
) -> list[Row]:
    """Run quantized files beside the float file that they came from.

    Args:
        candidates: files of the float file's format, and failures, which pass through.
        float_path: the float file.
        images: (n, channels, height, width) float32, prepared.
        labels: n class indices; None for latency alone, on the first image.
        runs: timed runs of each file.

    Returns:
        A row for each candidate, in their order.
    """
    opened = {index: open_runner(made.path) for index, made in enumerate(candidates) if made.path is not None}
    original = open_runner(float_path)
    scores: dict[int, Score] = {}
    if labels is not None:
        expected, truth = original.run(images), np.asarray(labels)
        scores = {index: score(runner.run(images), expected, truth) for index, runner in opened.items()}
    float_latency, *latencies = time_runners([original, *opened.values()], images[:1], runs=runs)
    timed = dict(zip(opened, latencies, strict=True))
    return [
        Row(made)
        if made.path is None
        else Row(made, scores.get(index), timed[index], float_latency, size_ratio(made.path, float_path))
        for index, made in enumerate(candidates)
    ]


def score(logits: Array, expected: Array, truth: npt.NDArray[np.int_]) -> Score:
    """Accuracy and agreement of (n, classes) logits with the float file's and with the labels.

    >>> score(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))  # doctest: +ELLIPSIS
    Score(accuracy=100.0, gained=50.0, lost=0.0, equal=50.0, divergence=0.231058578630..., images=2)
    """
    best, float_best = logits.argmax(axis=1), expected.argmax(axis=1)
    right, float_right = best == truth, float_best == truth
    return Score(
        accuracy=percent(right),
        gained=percent(right & ~float_right),
        lost=percent(float_right & ~right),
        equal=percent(best == float_best),
        divergence=float(divergence(torch.from_numpy(expected), torch.from_numpy(logits))),
        images=len(truth),
    )


def size_ratio(path: Path, float_path: Path) -> float:
    """Bytes of a file over another's."""
    return path.stat().st_size / float_path.stat().st_size


def time_runners(runners: Sequence[Runner], image: Array, *, runs: int = RUNS) -> list[Timing]:
    """Time files on one image, in turns, in processor time."""
    for runner in runners:
        runner.load(image)
    return time_in_turns(
        [runner.invoke for runner in runners],
        clock=PROCESSOR_TIME,
        warm_up=WARM_UP,
        rounds=runs,
        settle=True,
    )
