"""Time one artefact in a fresh process. Stand-alone: needs numpy and one runtime, nothing of edgevit.

The process holds the runtime and the model alone, so its peak memory is what a device would spend, and
the cold load is cold. Usage: ``python probe.py OPTIONS.json``; one JSON object is printed at the end.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

Runner = Callable[[], None]


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak starts from the parent's memory at the fork.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def open_onnx(path: str, threads: int) -> tuple[Runner, dict[str, Any]]:
    """Load an ONNX file; a function that runs it once on fixed noise, and what is running it."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    argument = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in argument.shape]
    feed = {argument.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    facts = {
        "runtime": "onnxruntime " + onnxruntime.__version__,
        "delegate": session.get_providers()[0],
        "input_shape": shape,
    }

    def run() -> None:
        session.run(None, feed)

    return run, facts


def open_tflite(path: str, threads: int) -> tuple[Runner, dict[str, Any]]:
    """Load a TFLite file; a function that runs it once on fixed noise, and what is running it."""
    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter

        name = "ai-edge-litert"
    except ImportError:
        # Devices in the field may have only its predecessor.
        from tflite_runtime.interpreter import Interpreter

        name = "tflite-runtime"
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    shape = [int(size) for size in details["shape"]]
    noise = np.random.default_rng(0).standard_normal(shape).astype(details["dtype"])
    interpreter.set_tensor(details["index"], noise)
    facts = {
        "runtime": name + " " + importlib.metadata.version(name),
        "delegate": "XNNPACK",
        "input_shape": shape,
    }
    return interpreter.invoke, facts


OPENERS = {".onnx": open_onnx, ".tflite": open_tflite}


def time_runs(run: Runner, count: int, seconds: float, most: int) -> list[float]:
    """Milliseconds of each run: at least `count` runs and at least `seconds`, at most `most` runs."""
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < most and (len(samples) < count or time.perf_counter() - started < seconds):
        before = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - before) / 1e6)
    return samples


def probe(options: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up and time the artefact that `options` name."""
    path = options["artefact"]
    opener = OPENERS[Path(path).suffix]
    before_mb = peak_memory_mb()
    started = time.perf_counter()
    run, facts = opener(path, options["threads"])
    load_ms = (time.perf_counter() - started) * 1e3
    first_ms = time_runs(run, 1, 0.0, 1)[0]
    warm_up_ms = time_runs(run, options["warm_up_runs"], options["warm_up_seconds"], options["most_runs"])
    samples_ms = time_runs(run, options["runs"], options["seconds"], options["most_runs"])
    peak = peak_memory_mb()
    facts.update(
        load_ms=load_ms,
        first_ms=first_ms,
        warm_up_ms=warm_up_ms,
        samples_ms=samples_ms,
        peak_memory_mb=peak,
        working_set_mb=peak - before_mb,
        threads=options["threads"],
        machine=platform.machine(),
        system=platform.platform(),
        python=platform.python_version(),
        cores=os.cpu_count(),
    )
    return facts


if __name__ == "__main__":
    print(json.dumps(probe(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))  # noqa: T201
