"""How far the profiler can be trusted: what it adds to a run, and what its operators add up to.

Usage: python benchmarks/profiling.py [--models NAME,...] [--rounds N] [--write docs/profiling.md]

Ten models of the zoo in ONNX Runtime, one thread, float32, each around one session.

Overhead: short rounds of the profiler's own loop, its lines of samples written to a file as they are and
more often, take turns with rounds of a bare loop, which takes the clock before and after `session.run` and
does nothing else. The order changes from round to round. The figure is the ratio of a round's two medians,
the median over all rounds.

Operators: the sum of the profiler's table over the whole that it is compared with, a run without the
profiler, timed in turns with those that are profiled; of several tables the median, the lowest, the highest.

The clock of whole runs is the thread's processor time: on one thread it is wall time without what other
programs on the machine do to it. The times of operators are ONNX Runtime's own, of the wall clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import write_table  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.profiling.probe.main import time_runs  # noqa: E402
from edgevit.profiling.probe.runtimes import Model, open_onnxruntime  # noqa: E402
from edgevit.profiling.relative import machine  # noqa: E402
from tests.conformance import program_of  # noqa: E402
from tests.zoo import TIMM  # noqa: E402

# Of a round: many short ones, since other work on the machine comes and goes. The profiler writes a line in
# each; on its own it writes one in half a second.
SECONDS = 0.1
HEADER = ("model", "ms", "profiler over bare loop", "operators", "their sum, of the whole", "in all tables")


def bare(run: Callable[[], Any]) -> list[float]:
    """Milliseconds of each run, and nothing else."""
    samples = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        before = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - before) / 1e6)
    return samples


def profiled(run: Callable[[], Any], lines: Any) -> list[float]:
    """The same in the probe's loop."""
    samples: list[float] = []

    def say(chunk: list[float]) -> None:
        lines.write(json.dumps({"event": "samples", "ms": chunk}) + "\n")
        lines.flush()
        samples.extend(chunk)

    time_runs(run, 1, SECONDS, sys.maxsize, say=say)
    return samples


def loops(model: Model, rounds: int) -> tuple[float, float]:
    """The bare loop's median, and the profiler's over it."""
    found: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryFile("w") as lines,
        mock.patch.object(time, "perf_counter_ns", time.thread_time_ns),
    ):
        bare(model.run)
        for number in range(rounds):
            # What runs second may find another clock or another neighbour: each is it as often.
            if number % 2:
                alone, inside = bare(model.run), profiled(model.run, lines)
            else:
                inside, alone = profiled(model.run, lines), bare(model.run)
            found.append((statistics.median(alone), statistics.median(inside)))
    whole = statistics.median(alone for alone, _ in found)
    return whole, statistics.median(inside / alone for alone, inside in found)


def share(model: Model) -> tuple[int, float]:
    """Operators in a table, and their sum over a whole run."""
    with mock.patch.object(time, "perf_counter_ns", time.thread_time_ns):
        table = model.operators()
    total = sum(microseconds for *_, microseconds in table["operators"])
    return len(table["operators"]), total / table["whole_us"]


def row(name: str, rounds: int, tables: int) -> str:
    """One model's figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FORMATS["onnx"].file
        FORMATS["onnx"].export(program_of(name), path, ExportChoices())
        model = open_onnxruntime({"artefact": str(path), "delegate": None}, 1)
        whole, ratio = loops(model, rounds)
        found = [share(model) for _ in range(tables)]
    shares = sorted(100 * part for _, part in found)
    cells = (
        name,
        f"{whole:.2f}",
        f"{100 * (ratio - 1):+.1f} %",
        f"{found[0][0]}",
        f"{statistics.median(shares):.0f} %",
        f"{shares[0]:.0f} to {shares[-1]:.0f} %",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(TIMM))
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--tables", type=int, default=7)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for name in options.models.split(","):
        rows.append(row(name, options.rounds, options.tables))
        print(rows[-1], flush=True)
    if options.write:
        write_table(options.write, "profiling.py", "\n".join([*rows, "", measured_on()]))


def measured_on() -> str:
    """The machine and the runtime."""
    import onnxruntime

    on = machine()
    return f"{on['machine']}, {on['cores']} cores, ONNX Runtime {onnxruntime.__version__}, one thread."


if __name__ == "__main__":
    main()
