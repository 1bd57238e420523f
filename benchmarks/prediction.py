"""Predicted against measured latency, every family of models left out in turn.

Usage: python benchmarks/prediction.py [--profile FILE.yaml] [--write docs/prediction.md]

The suite measures this machine once, on one thread, in ONNX Runtime and LiteRT; or a profile that it wrote
before is read. Each of its ten models, in float32 and in eight bits, is predicted from the operators of the
other families alone, which the suite does itself, and compared with the middle of its whole runs.

A whole run is timed in the thread's processor time, in turns with a pace model: on a machine that is busy
with other things both count how fast the machine itself was. By how much predictions are off in the mean is
taken out as `edgevit predict` does, for each family from the others; its interval is judged likewise.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import write_table  # noqa: E402
from edgevit.prediction.document import write_profile  # noqa: E402
from edgevit.prediction.predicting import CONFIDENCE, error_of  # noqa: E402
from edgevit.prediction.suite import measure  # noqa: E402
from edgevit.profiles import load_profile  # noqa: E402
from edgevit.profiles.measured import MeasuredModel, MeasuredRuntime  # noqa: E402
from edgevit.profiling.relative import machine  # noqa: E402

NAMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}
HEADER = ("model", "precision", "runtime", "measured ms", "predicted ms", "error", "interval ms")


@dataclass(frozen=True)
class Cell:
    """One model in one precision and runtime, in milliseconds."""

    model: MeasuredModel
    runtime: str
    predicted: float
    low: float
    high: float

    @property
    def measured(self) -> float:
        """Of a whole run."""
        return self.model.us / 1e3

    @property
    def error(self) -> float:
        """Relative."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds."""
        return self.low <= self.measured <= self.high

    def row(self) -> str:
        """A line of the table."""
        cells = (
            *(self.model.name, self.model.precision, NAMES[self.runtime]),
            *(f"{self.measured:.2f}", f"{self.predicted:.2f}", f"{100 * self.error:+.1f} %"),
            f"{self.low:.2f} to {self.high:.2f}{'' if self.inside else ', missed'}",
        )
        return f"| {' | '.join(cells)} |"


def cells(table: MeasuredRuntime) -> Iterator[Cell]:
    """Every model of a runtime."""
    for model in table.models:
        others = [
            math.log(other.us / other.predicted_us)
            for other in table.models
            if other.family != model.family and other.precision == model.precision
        ]
        bias, width = error_of(others)
        center = model.predicted_us * math.exp(bias) / 1e3
        factor = math.exp(math.inf if width is None else width)
        yield Cell(model, table.runtime, center, center / factor, center * factor)


def summary(found: list[Cell]) -> Iterator[str]:
    """Errors of each runtime and precision, as rows of a table."""
    yield "| runtime | precision | models | median error | 90th percentile | inside the interval |"
    yield "|---|---|---|---|---|---|"
    for runtime, name in NAMES.items():
        for precision in ("fp32", "int8", "both"):
            some = [
                cell
                for cell in found
                if cell.runtime == runtime and precision in (cell.model.precision, "both")
            ]
            if some:
                errors = np.abs([cell.error for cell in some])
                yield (
                    f"| {name} | {precision} | {len(some)} | {100 * np.median(errors):.1f} % | "
                    f"{100 * np.quantile(errors, 0.9):.1f} % | "
                    f"{sum(cell.inside for cell in some)} of {len(some)} |"
                )


def main() -> None:
    """Measure or read, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = options.profile or Path(folder) / "here.yaml"
        if options.profile is None:
            write_profile(measure(threads=1), path, "here")
        measured = load_profile(path).measured
    tables = () if measured is None else measured.runtimes
    found = [cell for table in tables for cell in cells(table)]
    rows = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|", *(cell.row() for cell in found)]
    text = "\n".join([*summary(found), "", *rows, "", measured_on(tables)])
    print(text)
    if options.write:
        write_table(options.write, "prediction.py", text)


def measured_on(tables: tuple[MeasuredRuntime, ...]) -> str:
    """The machine and the runtimes."""
    on = machine()
    releases = ", ".join(f"{NAMES[table.runtime]} {table.release}" for table in tables)
    return (
        f"{on['machine']}, {on['cores']} cores, {releases}, one thread, shared with other work. "
        f"Intervals are meant to hold for {100 * CONFIDENCE:.0f} % of models."
    )


if __name__ == "__main__":
    main()
