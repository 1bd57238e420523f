"""Which of two ONNX files is faster here: timed in turns in ONNX Runtime."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP = 3
RUNS = 30
# A smaller gain is not worth a less portable file.
_SMALLEST_GAIN = 0.03


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the timed runs of one file."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the runs took no longer."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter, and three quarters, of the runs took no longer."""
        first, _, third = statistics.quantiles(self.samples, n=4)
        return first, third


def time_in_turns(files: list[bytes], *, runs: int = RUNS, threads: int | None = None) -> list[Timing]:
    """Time serialised models in ONNX Runtime on the CPU, one run of each at a time.

    Taking turns, whatever else the machine does slows all of them. The order is drawn anew every round:
    the file before has left the caches full of its own weights.

    Args:
        files: of one image input each; a dynamic batch is run with one image.
        runs: timed runs of each, after `WARM_UP` that are not counted.
        threads: intra-op threads; None leaves it to ONNX Runtime.
    """
    sessions = [_session(content, threads) for content in files]
    samples: list[list[float]] = [[] for _ in files]
    order = np.random.default_rng(0)
    for _ in range(WARM_UP + runs):
        for index in order.permutation(len(files)):
            session, feed = sessions[index]
            started = time.perf_counter()
            session.run(None, feed)
            samples[index].append(1000 * (time.perf_counter() - started))
    return [Timing(tuple(taken[WARM_UP:])) for taken in samples]


def _session(content: bytes, threads: int | None) -> tuple[Any, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in image.shape]
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return session, {image.name: noise}


def is_clearly_faster(challenger: Timing, champion: Timing) -> bool:
    """Whether its median is at least 3 % lower, and the middle halves of the runs do not meet."""
    gain = 1 - challenger.median / champion.median
    return gain >= _SMALLEST_GAIN and challenger.quartiles[1] < champion.quartiles[0]
