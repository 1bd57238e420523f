"""Which of two ONNX files is faster here: timed in turns in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.export.timing import WALL_TIME, Run, Timing, time_in_turns

WARM_UP = 3
RUNS = 30
# A smaller gain is not worth a less portable file.
_SMALLEST_GAIN = 0.03


def time_files(files: Sequence[bytes], *, runs: int = RUNS, threads: int | None = None) -> list[Timing]:
    """Time serialised models in ONNX Runtime on the CPU, in turns, in wall time: there may be many threads.

    Args:
        files: of the same inputs each; a dynamic batch is run with one image.
        runs: timed runs of each, after `WARM_UP` that are not counted.
        threads: intra-op threads; None leaves it to ONNX Runtime.
    """
    opened = [onnx_run(content, threads=threads) for content in files]
    return time_in_turns(opened, clock=WALL_TIME, warm_up=WARM_UP, rounds=runs)


def onnx_run(model: bytes | Path, *, threads: int | None) -> Run:
    """A run of a model on noise, in ONNX Runtime on the CPU.

    Args:
        model: a file, or its bytes, of one float32 image input; a dynamic batch is one image.
        threads: intra-op threads; None leaves it to ONNX Runtime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feed = {
        argument.name: noise_like(argument.shape, argument.type.removeprefix("tensor(").removesuffix(")"))
        for argument in session.get_inputs()
    }
    return lambda: session.run(None, feed)


def noise_like(shape: Sequence[int | str], dtype: str) -> npt.NDArray[Any]:
    """Values for an input, of a dynamic batch for one image; the type as ONNX Runtime names it."""
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    noise = np.random.default_rng(0).standard_normal(sizes, dtype=np.float32)
    return noise.astype(np.dtype({"float": "float32"}.get(dtype, dtype)))


def is_clearly_faster(challenger: Timing, champion: Timing) -> bool:
    """Whether its median is at least 3 % lower, and the middle halves of the runs do not meet."""
    gain = 1 - challenger.median / champion.median
    return gain >= _SMALLEST_GAIN and challenger.quartiles[1] < champion.quartiles[0]
