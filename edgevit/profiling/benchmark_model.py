"""What LiteRT's benchmark_model prints: figures over its runs, and operators by kind when asked for them.

It prints no single runs. Source: tensorflow/lite/tools/benchmark, whose wording changed a little over the
years: newer ones put ``INFO:`` before a line, and percentiles behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.profiling.latency import Statistics
from edgevit.profiling.measurements import OperatorTable, OperatorTime

_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_RUNS = re.compile(rf"\bcount={_NUMBER} (\w+=.*)")
_FIGURE = re.compile(rf"(\w+)={_NUMBER}")
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}"
)
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_GROWTH = re.compile(rf"emory footprint[^:]*\(MB\): init={_NUMBER} overall={_NUMBER}")
_THREADS = re.compile(r"#threads used for CPU inference: \[(\d+)\]")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]+)\)")
_APPLIED = re.compile(r"Explicitly applied (.+?) delegate, and the model graph will be \w+ executed")
# The last summary is of the timed runs; one before it is of loading.
_SUMMARY = re.compile(r"=+ Summary by node type =+\n(.*?)\n\s*\n", re.DOTALL)
_ROW = re.compile(rf"^\s*(\S+)\s+(\d+)\s+{_NUMBER}\s", re.MULTILINE)

# Its MB are 2^20 bytes.
_MB = 2**20 / 1e6


@dataclass(frozen=True)
class Printed:
    """What it says of a run without operators.

    Attributes:
        statistics: of the timed runs.
        load_ms: until the interpreter is ready.
        first_ms: the first run.
        warm_up_ms: mean of the runs that are not counted.
        peak_memory_mb: None where it was not watched.
        working_set_mb: growth of the memory, None where that is not said.
        threads: None where that is not said.
        delegate: its name; None where there was none.
        taken: how many operators it took, of how many; None where that is not said.
    """

    statistics: Statistics
    load_ms: float
    first_ms: float
    warm_up_ms: float
    peak_memory_mb: float | None
    working_set_mb: float | None
    threads: int | None
    delegate: str | None
    taken: tuple[int, int] | None


def read_timings(text: str) -> Printed:
    """The figures in what it printed.

    Raises:
        EdgevitError: when it printed none; its last words are the reason.
    """
    timings = _TIMINGS.search(text)
    rows = list(_RUNS.finditer(text[: timings.start()])) if timings else []
    if timings is None or not rows:
        raise EdgevitError(f"benchmark_model printed no timings: {last_line(text)}")
    init, first, warm_up = (float(value) / 1e3 for value in timings.groups())
    peak, growth, threads = _PEAK.search(text), _GROWTH.search(text), _THREADS.search(text)
    return Printed(
        statistics=_statistics(float(rows[-1][1]), dict(_FIGURE.findall(rows[-1][2]))),
        load_ms=init,
        first_ms=first,
        warm_up_ms=warm_up,
        peak_memory_mb=float(peak[1]) * _MB if peak else None,
        working_set_mb=float(growth[2]) * _MB if growth else None,
        threads=int(threads[1]) if threads else None,
        **_delegate(text),
    )


def _statistics(count: float, figures: Mapping[str, str]) -> Statistics:
    """Of one line; a single run has no mean, or one that is it."""
    ms = {name: float(value) / 1e3 for name, value in figures.items()}
    only = ms["curr"]
    return Statistics(
        runs=int(count),
        mean_ms=ms.get("avg", only),
        std_ms=ms.get("std", 0.0),
        min_ms=ms.get("min", only),
        max_ms=ms.get("max", only),
        p50_ms=ms.get("median"),
        p95_ms=ms.get("p95"),
    )


def _delegate(text: str) -> dict[str, Any]:
    replaced, applied = _REPLACED.search(text), _APPLIED.search(text)
    if replaced:
        return {"delegate": replaced[3], "taken": (int(replaced[1]), int(replaced[2]))}
    return {"delegate": applied[1] if applied else None, "taken": None}


def read_operators(text: str) -> OperatorTable | None:
    """Times by kind of operator, in what it printed with ``--enable_op_profiling=true``."""
    summaries = _SUMMARY.findall(text.replace("\r", "") + "\n\n")
    if not summaries:
        return None
    rows = _ROW.findall(summaries[-1])
    # A kind's operators have one time together: each is given its share.
    times = [
        OperatorTime(kind, kind, "", float(ms) / int(count), "")
        for kind, count, ms in rows
        for _ in range(int(count))
    ]
    return OperatorTable(tuple(times), 0.0) if times else None


def last_line(text: str) -> str:
    """The last that a program said."""
    return (text.strip().splitlines() or ["it said nothing"])[-1].strip()
