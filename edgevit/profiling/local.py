"""Profile an artefact on the machine at hand, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.export.artefacts import check_artefact
from edgevit.export.onnx.check import check_file
from edgevit.profiling import probe
from edgevit.profiling.latency import LatencyProfile
from edgevit.progress import working

# A run shorter than this in total is decided by one scheduling hiccup; a longer one tires the user.
_SECONDS = 3.0
_WARM_UP_SECONDS = 0.5
_MOST_RUNS = 20_000
# Extra that brings the runtime, by what the probe can open.
_RUNTIMES = {".onnx": "onnx", ".tflite": "tflite"}


def profile(
    artefact: str | Path,
    *,
    device: str = "local",
    threads: int | None = None,
    runs: int = 50,
    seconds: float = _SECONDS,
) -> LatencyProfile:
    """Time an artefact: cold load, first inference, warm-up, then at least `runs` runs and `seconds`.

    It runs in a fresh process that holds nothing but its runtime.

    Args:
        artefact: the exported file; a dynamic batch is run with one image.
        device: ``"local"``, this machine.
        threads: threads of the runtime; None uses every core this process may.
        runs: the fewest timed runs.
        seconds: the least time spent on timed runs.

    Raises:
        EdgevitError: when the artefact, the device or an option cannot be used, or the run fails.
        MissingDependencyError: when the runtime is not installed.
    """
    if device != "local":
        raise EdgevitError(f"--device: {device!r} cannot be profiled; {closest(device, ['local'])}")
    threads = usable_cores() if threads is None else threads
    if threads < 1 or runs < 1 or seconds < 0:
        raise EdgevitError(
            f"--threads {threads}, --runs {runs}, --seconds {seconds:g}: "
            "threads and runs start at 1, seconds at 0"
        )
    path = check_artefact(artefact)
    extras.require(check_profilable(path.name), f"profiling {path}")
    if path.suffix == ".onnx":
        # The probe imports nothing of edgevit and opens whatever it is given.
        check_file(path)
    with working(f"profiling {path.name} with {threads} threads"):
        facts = _run_probe(path, threads, runs, seconds)
    facts["input_shape"] = tuple(facts["input_shape"])
    for key in ("warm_up_ms", "samples_ms"):
        facts[key] = tuple(facts[key])
    return LatencyProfile(artefact=str(artefact), device=device, **facts)


def check_profilable(name: str) -> str:
    """The extra whose runtime times a file of this name.

    Raises:
        EdgevitError: when nothing here can: the reference evaluator of Core ML packages says what they
            compute, not how fast a phone does it.
    """
    extra = _RUNTIMES.get(Path(name).suffix)
    if extra is None:
        raise EdgevitError(
            f"{name} cannot be profiled on this machine: it has no runtime for it; "
            f"what can be is {', '.join(f'*{suffix}' for suffix in _RUNTIMES)}"
        )
    return extra


def usable_cores() -> int:
    """Cores this process may run on."""
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_probe(path: Path, threads: int, runs: int, seconds: float) -> dict[str, Any]:
    options = {
        "artefact": str(path.resolve()),
        "threads": threads,
        "warm_up_runs": 3,
        "warm_up_seconds": _WARM_UP_SECONDS,
        "runs": runs,
        "seconds": seconds,
        "most_runs": max(runs, _MOST_RUNS),
    }
    with tempfile.TemporaryDirectory() as folder:
        options_file = Path(folder) / "options.json"
        options_file.write_text(json.dumps(options), encoding="utf-8")
        # A script by path, not `-m`: importing edgevit would count towards the load and the memory.
        result = subprocess.run(  # noqa: S603
            [sys.executable, str(Path(probe.__file__)), str(options_file)],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
        raise EdgevitError(f"{path} could not be profiled: {reason}")
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts
