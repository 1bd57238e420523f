"""Several artefacts timed in turns, each in its own runtime on one thread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.export.timing import PROCESSOR_TIME, Run, time_in_turns

_WARM_UP = 3
# Timed for so long each, and so many runs at least: a short run is decided by chance.
_SECONDS = 0.8
_RUNS = 40


def medians_in_turns(paths: Sequence[Path], *, seconds: float = _SECONDS) -> list[float]:
    """Median milliseconds of processor time of one run of each file, on one thread.

    Args:
        paths: ``.onnx`` or ``.tflite`` files of one float32 image input; a dynamic batch is one image.
        seconds: timed on each.
    """
    # Opened once in this order and once in reverse: what is opened later runs some percent faster.
    forward = [_opened(path) for path in paths]
    backward = [_opened(path) for path in reversed(paths)][::-1]
    timings = time_in_turns(
        [*forward, *backward],
        clock=PROCESSOR_TIME,
        warm_up=_WARM_UP,
        rounds=_RUNS // 2,
        seconds=seconds / 2,
        settle=True,
    )
    return [
        statistics.median(one.samples + other.samples)
        for one, other in zip(timings[: len(paths)], timings[len(paths) :], strict=True)
    ]


def _opened(path: Path) -> Run:
    openers = {".onnx": _onnx, ".tflite": _tflite}
    if path.suffix not in openers:
        raise EdgevitError(f"{path} cannot be timed on this machine: it has no runtime for it")
    return openers[path.suffix](path)


def _onnx(path: Path) -> Run:
    from edgevit.export.onnx.contest import onnx_run

    return onnx_run(path, threads=1)


def _tflite(path: Path) -> Run:
    from edgevit.export.tflite import TfliteArtefact

    interpreter: Any = TfliteArtefact.open(path, threads=1).interpreter
    for given in interpreter.get_input_details():
        noise = np.random.default_rng(0).standard_normal(list(given["shape"]), dtype=np.float32)
        interpreter.set_tensor(given["index"], noise.astype(given["dtype"]))
    run: Run = interpreter.invoke
    return run
