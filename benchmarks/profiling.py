"""How far the profiler can be trusted: what it adds to a run, and what its operators add up to.

Usage: python benchmarks/profiling.py [--models NAME,...] [--rounds N] [--write docs/profiling.md]

Ten models of the zoo in ONNX Runtime, one thread, float32.

Overhead: in one process, around one session, rounds of the profiler's own loop, its lines of samples written
to a file as they are, take turns with rounds of a bare loop, which takes the clock before and after
`session.run` and does nothing else. The order changes from round to round; the figure is the profiler's median
over the bare loop's.

Operators: the sum of the table that `edgevit.profile` gives over the median of its timed runs, in a process of
its own; the median of several profiles, with the lowest and the highest.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import write_table  # noqa: E402
from edgevit import profile  # noqa: E402
from edgevit.export.formats import FORMATS, ExportChoices  # noqa: E402
from edgevit.profiling.probe.main import time_runs  # noqa: E402
from edgevit.profiling.probe.runtimes import open_onnxruntime  # noqa: E402
from edgevit.profiling.relative import machine  # noqa: E402
from tests.conformance import program_of  # noqa: E402
from tests.zoo import TIMM  # noqa: E402

# More than half a second: the profiler writes a line that often.
SECONDS = 0.6


def bare(run: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each run, and nothing else."""
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        run()
        samples.append((time.perf_counter() - before) * 1e3)
    return samples


def profiled(run: Callable[[], Any], seconds: float, lines: Any) -> list[float]:
    """The same in the probe's loop."""
    samples: list[float] = []

    def say(chunk: list[float]) -> None:
        lines.write(json.dumps({"event": "samples", "ms": chunk}) + "\n")
        lines.flush()
        samples.extend(chunk)

    time_runs(run, 1, seconds, sys.maxsize, say=say)
    return samples


def overhead(path: Path, rounds: int) -> float:
    """The profiler's median over the bare loop's."""
    model = open_onnxruntime({"artefact": str(path), "delegate": None}, 1)
    bare(model.run, SECONDS)
    found: dict[str, list[float]] = {"bare": [], "profiled": []}
    with tempfile.TemporaryFile("w") as lines:
        for number in range(rounds):
            order = ("bare", "profiled") if number % 2 else ("profiled", "bare")
            for which in order:
                samples = (
                    bare(model.run, SECONDS) if which == "bare" else profiled(model.run, SECONDS, lines)
                )
                found[which] += samples
    return statistics.median(found["profiled"]) / statistics.median(found["bare"])


def row(name: str, rounds: int, profiles: int) -> str:
    """One model's figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FORMATS["onnx"].file
        FORMATS["onnx"].export(program_of(name), path, ExportChoices())
        found = [profile(path, threads=1) for _ in range(profiles)]
        extra = overhead(path, rounds)
    shares = sorted(100 * (item.operators_share or 0) for item in found)
    middle = sorted(found, key=lambda item: item.typical_ms)[len(found) // 2]
    operators = middle.operators
    assert operators is not None
    return (
        f"| {name} | {middle.typical_ms:.2f} | {100 * (extra - 1):+.1f} % | {len(operators.operators)} "
        f"| {statistics.median(shares):.0f} % | {shares[0]:.0f} to {shares[-1]:.0f} % | {operators.cost_us:.1f} |"
    )


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(TIMM))
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--profiles", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [
        "| model | p50 ms | profiler's loop over a bare one | operators | their sum, of the whole | in all profiles | profiler, µs each |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in options.models.split(","):
        rows.append(row(name, options.rounds, options.profiles))
        print(rows[-1], flush=True)
    if options.write:
        on = machine()
        note = f"{on['machine']}, {on['cores']} cores, Python {on['python']}, {middle_runtime()}; one thread."
        write_table(options.write, "profiling.py", "\n".join([*rows, "", note]))


def middle_runtime() -> str:
    """The runtime that was measured."""
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
