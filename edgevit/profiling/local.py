"""The probe on the machine at hand, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError, closest
from edgevit.profiling.packed import NAME, packed_probe
from edgevit.profiling.running import Run, ending, send, started

# What runs a kind of file, the default first.
RUNTIMES = {".onnx": ("onnxruntime", "opencv"), ".tflite": ("litert",)}

# Extra that brings what edgevit itself needs to read a file; its runtime as well.
_EXTRAS = {".onnx": "onnx", ".tflite": "tflite"}


@contextlib.contextmanager
def local_run(options: Mapping[str, Any]) -> Iterator[Run]:
    """The probe in a fresh process that holds nothing but a runtime."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / NAME
        probe.write_bytes(packed_probe())
        command = [sys.executable, str(probe)]
        with started(command, stop=subprocess.Popen.terminate, explain=_explain, tmp=folder) as run:
            send(run.process, json.dumps(options).encode() + b"\n")
            yield run


def _explain(status: int, complaints: str) -> str:
    return (complaints.strip().splitlines() or [ending(status)])[-1] if status > 0 else ending(status)


def check_profilable(name: str) -> str:
    """The extra whose runtime times a file of this name.

    Raises:
        EdgevitError: when nothing here can: the reference evaluator of Core ML packages says what they
            compute, not how fast a phone does it.
    """
    extra = _EXTRAS.get(Path(name).suffix)
    if extra is None:
        raise EdgevitError(
            f"{name} cannot be profiled on this machine: it has no runtime for it; "
            f"what can be is {', '.join(f'*{suffix}' for suffix in _EXTRAS)}"
        )
    return extra


def check_runtime(path: Path, runtime: str | None) -> str:
    """What is to run a file.

    Raises:
        EdgevitError: when that does not run files of its kind.
    """
    known = RUNTIMES[path.suffix]
    if runtime is None:
        return known[0]
    if runtime not in known:
        raise EdgevitError(f"--runtime: {runtime} does not run {path.name}; {closest(runtime, known)}")
    return runtime


def usable_cores() -> int:
    """Cores this process may run on."""
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
