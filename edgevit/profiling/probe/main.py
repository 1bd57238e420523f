"""Load, warm up and time one artefact, saying each finding when it is there."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

from .conditions import Energy, conditions, machine, memory_bandwidth, peak_memory_mb
from .runtimes import RUNTIMES, RefusedError

Emit = Callable[..., None]
Runner = Callable[[], Any]

# Between two lines of samples: rare enough to disturb one run in hundreds, often enough to lose little.
_LINE_SECONDS = 0.5


def main() -> int:
    """Read what to measure, measure it; the exit status."""
    options = json.loads(sys.stdin.readline())
    emit = _only_writer()
    try:
        measure(options, emit)
    # A runtime's errors share no base class; the last line of what they say is the reason.
    except Exception as error:  # noqa: BLE001
        words = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        emit("refused", reason=(words.strip().splitlines() or [type(error).__name__])[-1])
        return 1
    emit("end")
    return 0


def _only_writer() -> Emit:
    """Writes events; whatever runtimes print goes to standard error instead."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **facts: Any) -> None:
        stream.write(json.dumps({"event": event, **facts}) + "\n")
        stream.flush()

    return emit


def measure(options: dict[str, Any], emit: Emit) -> None:
    """All that `options` ask for, one after another."""
    if options["cpus"]:
        _pin(options["cpus"])
    threads = options["threads"] or usable_cores()
    emit("machine", **machine(), threads=threads, affinity=_affinity())
    if options.get("bandwidth"):
        emit("bandwidth", bytes_per_second=memory_bandwidth())
        return
    if options.get("pace"):
        emit("timed", **_operators_at_a_pace(options, threads))
        return
    before_mb = peak_memory_mb()
    started = time.perf_counter()
    model = RUNTIMES[options["runtime"]](options, threads)
    load_ms = (time.perf_counter() - started) * 1e3
    emit("loaded", load_ms=load_ms, **model.facts)
    emit("first", ms=time_runs(model.run, 1, 0.0, 1))
    warm_up = time_runs(model.run, options["warm_up_runs"], options["warm_up_seconds"], options["most_runs"])
    emit("warm_up", ms=warm_up)
    emit("measured", before=conditions(), **_memory(before_mb))
    _timed(model.run, options, emit)
    # Once more, and for the last time: the runtime's profiler takes memory of its own.
    emit("measured", **_memory(before_mb))
    if options["sustained_seconds"]:
        _sustain(model.run, options["sustained_seconds"], emit)
    if options["operators"]:
        emit("operators", **model.operators())


def _operators_at_a_pace(options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Times of operators, in turns with another artefact that tells how fast the device is just then."""
    opened = RUNTIMES[options["runtime"]]
    pace = opened({**options, "artefact": options["pace"]}, threads)
    model = opened(options, threads)
    return {**model.operators(pace.run), "runtime": model.facts["runtime"]}


def _memory(before_mb: float) -> dict[str, float]:
    peak_mb = peak_memory_mb()
    return {"peak_memory_mb": peak_mb, "working_set_mb": peak_mb - before_mb}


def _timed(run: Runner, options: dict[str, Any], emit: Emit) -> None:
    """The runs that count, in lines of samples."""
    energy = Energy()

    def say(samples: list[float]) -> None:
        energy.read()
        emit("samples", ms=samples)

    time_runs(run, options["runs"], options["seconds"], options["most_runs"], say=say)
    emit("measured", after=conditions(), energy=energy.result())


def time_runs(
    run: Runner,
    count: int,
    seconds: float,
    most: int,
    say: Callable[[list[float]], None] | None = None,
) -> list[float]:
    """Milliseconds of each run: at least `count` runs and at least `seconds`, at most `most` runs.

    With `say`, samples are handed over between runs, some hundreds at a time, and not kept.
    """
    samples: list[float] = []
    done, started = 0, time.perf_counter()
    said = started
    while done < most and (done < count or time.perf_counter() - started < seconds):
        before = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - before) / 1e6)
        done += 1
        if say is not None and time.perf_counter() - said >= _LINE_SECONDS:
            say(samples)
            samples, said = [], time.perf_counter()
    if say is not None and samples:
        say(samples)
    return samples


def _sustain(run: Runner, seconds: float, emit: Emit) -> None:
    """Run without a pause, one line for each second of it."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        at = time.perf_counter() - started
        samples = time_runs(run, 1, 1.0, sys.maxsize)
        emit(
            "second",
            at=at,
            runs=len(samples),
            busy_ms=sum(samples),
            p50_ms=sorted(samples)[len(samples) // 2],
            max_ms=max(samples),
            **conditions(),
        )


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(_affinity() or range(os.cpu_count() or 1))


def _affinity() -> list[int] | None:
    # macOS has none.
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _pin(cpus: list[int]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise RefusedError("--cpus: this system cannot bind a process to cores")
    there = sorted(os.sched_getaffinity(0))
    absent = [cpu for cpu in cpus if cpu not in there]
    if absent:
        raise RefusedError(f"--cpus: the device lets this process run on {there}, and not on {absent}")
    os.sched_setaffinity(0, cpus)
