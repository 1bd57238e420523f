"""Profile an artefact on a device: the same report wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.artefacts import check_artefact
from edgevit.export.onnx.check import check_file
from edgevit.profiling.adb import adb_profile
from edgevit.profiling.addresses import Address, Remote, address_of
from edgevit.profiling.latency import InterruptedProfileError, LatencyProfile, UnfinishedProfileError
from edgevit.profiling.local import check_profilable, check_runtime, local_run
from edgevit.profiling.onnx_files import data_files, input_shape
from edgevit.profiling.readings import Readings
from edgevit.profiling.running import Run
from edgevit.profiling.ssh import explain_problem, ssh_run
from edgevit.progress import working

# A run shorter than this in total is decided by one scheduling hiccup; a longer one tires the user.
_SECONDS = 3.0
_WARM_UP = {"warm_up_runs": 3, "warm_up_seconds": 0.5}
_MOST_RUNS = 20_000
_INTERRUPTED = "interrupted"


def profile(
    artefact: str | Path,
    *,
    device: str = "local",
    runtime: str | None = None,
    delegate: str | None = None,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    runs: int = 50,
    seconds: float = _SECONDS,
    sustained: float = 0.0,
    operators: bool = True,
    remote: Remote | None = None,
) -> LatencyProfile:
    """Time an artefact: cold load, first inference, warm-up, then at least `runs` runs and `seconds`.

    It runs in a fresh process that holds nothing but its runtime.

    Args:
        artefact: the exported file; a dynamic batch is run with one image.
        device: ``"local"``, this machine; ``"ssh://user@host[:port]"``; or ``"adb://SERIAL"``.
        runtime: "onnxruntime" or "opencv" for ONNX, "litert" for TFLite; None is the first of them.
        delegate: an execution provider of ONNX Runtime; "xnnpack", "none" or the path of a delegate's library
            on the device for LiteRT; None is the CPU, with XNNPACK for LiteRT.
        threads: threads of the runtime; None uses every core the process may.
        cpus: the only cores that it may use; None leaves that to the device.
        runs: the fewest timed runs.
        seconds: the least time spent on timed runs.
        sustained: minutes of load without a pause after them.
        operators: whether to time single operators as well, after everything else.
        remote: how a device is used that is not this machine.

    Raises:
        EdgevitError: when the artefact, the device or an option cannot be used, or the run fails.
        MissingDependencyError: when the runtime is not installed here, or on the device.
        UnfinishedProfileError: when it ends early, with what was measured until then.
        InterruptedProfileError: when it is interrupted before anything was.
    """
    remote = remote or Remote()
    address = address_of(device)
    _check_numbers(threads, runs, seconds, sustained)
    path = _checked(artefact)
    runtime = check_runtime(path, runtime)
    options = {
        "artefact": str(path.resolve()) if address is None else path.name,
        "runtime": runtime,
        "delegate": delegate,
        "input_shape": input_shape(path) if runtime == "opencv" else None,
        "threads": threads,
        "cpus": None if cpus is None else list(cpus),
        **_WARM_UP,
        "runs": runs,
        "seconds": seconds,
        "most_runs": max(runs, _MOST_RUNS),
        "sustained_seconds": 60 * sustained,
        "operators": operators,
    }
    with working(f"profiling {path.name} on {device}"):
        if address is not None and address.scheme == "adb":
            return _timed_by_adb(path, address, remote, options)
        return _probed(path, device, address, remote, options)


def _checked(artefact: str | Path) -> Path:
    path = check_artefact(artefact)
    extras.require(check_profilable(path.name), f"profiling {path}")
    if path.suffix == ".onnx":
        # The probe imports nothing of edgevit and opens whatever it is given.
        check_file(path)
    return path


def _check_numbers(threads: int | None, runs: int, seconds: float, sustained: float) -> None:
    if (threads is not None and threads < 1) or runs < 1 or seconds < 0 or sustained < 0:
        given = "" if threads is None else f"--threads {threads}, "
        raise EdgevitError(
            f"{given}--runs {runs}, --seconds {seconds:g}, --sustained {sustained:g}: "
            "threads and runs start at 1, seconds and minutes at 0"
        )


def _probed(
    path: Path, device: str, address: Address | None, remote: Remote, options: dict[str, Any]
) -> LatencyProfile:
    readings = Readings()
    try:
        with _run(path, address, remote, options) as run:
            reason = run.follow(readings)
    except KeyboardInterrupt:
        reason = _INTERRUPTED
    if reason is None:
        return readings.profile(path, device)
    if address is not None and readings.problem is not None:
        raise explain_problem(address, remote, readings.problem)
    where = str(path) if address is None else f"{path} on {device}"
    if not readings.runs and reason == _INTERRUPTED:
        raise _nothing_yet(where)
    if not readings.runs:
        raise EdgevitError(f"{where} could not be profiled: {reason}")
    raise UnfinishedProfileError(
        f"{where}: {reason}; the report is partial, with {readings.runs} timed runs",
        readings.profile(path, device, partial=reason),
        interrupted=reason == _INTERRUPTED,
    )


def _timed_by_adb(path: Path, address: Address, remote: Remote, options: dict[str, Any]) -> LatencyProfile:
    try:
        return adb_profile(path, address, remote, options)
    except KeyboardInterrupt:
        # It tells its figures at its end.
        raise _nothing_yet(f"{path} on {address}") from None


def _nothing_yet(where: str) -> InterruptedProfileError:
    return InterruptedProfileError(f"{where}: interrupted before anything was timed; there is no report")


def _run(
    path: Path, address: Address | None, remote: Remote, options: dict[str, Any]
) -> AbstractContextManager[Run]:
    if address is None:
        return local_run(options)
    beside = data_files(path) if path.suffix == ".onnx" else []
    files = [(path.name, path), *((name, path.parent / name) for name in beside)]
    return ssh_run(address, remote, files, options)
