"""Several artefacts timed in turns, so that whatever else the machine does slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError

_WARM_UP = 3
# Timed for so long each, and so many runs at least: a short run is decided by chance.
_SECONDS = 0.8
_RUNS = 20

Run = Callable[[], object]


def medians_in_turns(paths: Sequence[Path], *, seconds: float = _SECONDS) -> list[float]:
    """Median milliseconds of processor time of one run of each file, on one thread.

    Processor time and not the clock's: with one thread the two are equal on an idle machine, and on a
    busy one the clock also counts the others' work. The order is drawn anew every round.

    Args:
        paths: ``.onnx`` or ``.tflite`` files of one float32 image input; a dynamic batch is one image.
        seconds: timed on each.
    """
    # Opened once in this order and once in reverse: what is opened later runs some percent faster.
    forward = [_opened(path) for path in paths]
    backward = [_opened(path) for path in reversed(paths)][::-1]
    samples: list[list[float]] = [[] for _ in paths]
    order = np.random.default_rng(0)
    while len(samples[0]) < 2 * (_WARM_UP + _RUNS) or min(map(sum, samples)) < 1000 * seconds:
        for index in order.permutation(len(paths)):
            for run in (forward[index], backward[index]):
                # A device runs one model again and again: its caches hold that model, not another's weights.
                run()
                started = time.process_time_ns()
                run()
                samples[index].append((time.process_time_ns() - started) / 1e6)
    return [statistics.median(taken[2 * _WARM_UP :]) for taken in samples]


def _opened(path: Path) -> Run:
    openers = {".onnx": _onnx, ".tflite": _tflite}
    if path.suffix not in openers:
        raise EdgevitError(f"{path} cannot be timed on this machine: it has no runtime for it")
    return openers[path.suffix](path)


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    feed = {image.name: _noise([size if isinstance(size, int) else 1 for size in image.shape])}
    return lambda: session.run(None, feed)


def _tflite(path: Path) -> Run:
    from edgevit.export.tflite import TfliteArtefact

    interpreter: Any = TfliteArtefact.open(path, threads=1).interpreter
    image = interpreter.get_input_details()[0]
    interpreter.set_tensor(image["index"], _noise(list(image["shape"])).astype(image["dtype"]))
    run: Run = interpreter.invoke
    return run


def _noise(shape: list[int]) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
