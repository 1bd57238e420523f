"""What a profile says: every raw sample, and the figures drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.profiling.measurements import Conditions, Energy, OperatorTable, Placed, Sustained, plain

# Middle 80 % of the runs wider than this share of the median: another run could say something else.
_WIDE_SPREAD = 0.25


@dataclass(frozen=True)
class Statistics:
    """Figures over timed runs, in milliseconds; None where a tool that times by itself does not tell."""

    runs: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None

    @classmethod
    def of(cls, samples: Sequence[float]) -> Statistics:
        """Of milliseconds, one per run."""
        return cls(
            len(samples),
            float(np.mean(samples)),
            float(np.std(samples)),
            min(samples),
            max(samples),
            *(float(value) for value in np.percentile(samples, (50, 90, 95, 99))),
        )


@dataclass(frozen=True)
class LatencyProfile:
    """Latency and memory of one artefact on one device.

    All times are milliseconds of wall clock for one run of the artefact's batch; memory is MB (10^6
    bytes). `load_ms` includes the import of the runtime's library.

    Attributes:
        delegate: what runs the artefact.
        requested: what was asked for to run it.
        samples_ms: one per timed run; empty where a tool on the device times by itself (`reported`).
        affinity: cores that the process may use; None where a system has no such thing.
        board: what the device calls itself.
        before: conditions before the timed runs; `after` is after them.
        energy: of the timed runs, or None, with `energy_reason`.
        placed: where operators ran; None where the runtime does not say.
        operators: their times, or None, with `operators_reason`.
        sustained: minutes of load, where asked for.
        reported: figures of a tool that gives no samples.
        partial: why the measurement ended before its end; None where it did not.
    """

    artefact: str
    device: str
    runtime: str
    delegate: str
    threads: int
    input_shape: tuple[int, ...]
    load_ms: float
    first_ms: float
    warm_up_ms: tuple[float, ...]
    samples_ms: tuple[float, ...]
    peak_memory_mb: float | None
    working_set_mb: float | None
    machine: str
    system: str
    python: str | None
    cores: int
    requested: str | None = None
    affinity: tuple[int, ...] | None = None
    board: str | None = None
    processor: str | None = None
    before: Conditions | None = None
    after: Conditions | None = None
    energy: Energy | None = None
    energy_reason: str | None = None
    placed: Placed | None = None
    operators: OperatorTable | None = None
    operators_reason: str | None = None
    sustained: Sustained | None = None
    reported: Statistics | None = None
    partial: str | None = None

    def percentile(self, share: float) -> float:
        """The value below which `share` percent of the samples lie."""
        return float(np.percentile(self.samples_ms, share))

    @property
    def statistics(self) -> Statistics:
        """Figures over the timed runs."""
        return self.reported or Statistics.of(self.samples_ms)

    @property
    def runs(self) -> int:
        """Timed runs, warm-up not counted."""
        return self.statistics.runs

    @property
    def mean_ms(self) -> float:
        """Mean of the samples."""
        return self.statistics.mean_ms

    @property
    def std_ms(self) -> float:
        """Standard deviation of the samples."""
        return self.statistics.std_ms

    @property
    def typical_ms(self) -> float:
        """The median; the mean where a device does not tell the median."""
        median = self.statistics.p50_ms
        return self.mean_ms if median is None else median

    @property
    def spread(self) -> float | None:
        """Width of the middle 80 % of the samples over their median; None without samples."""
        if not self.samples_ms:
            return None
        return (self.percentile(90) - self.percentile(10)) / self.percentile(50)

    @property
    def warning(self) -> str | None:
        """Why the figures should not be trusted, or None."""
        if self.spread is None or self.spread <= _WIDE_SPREAD:
            return None
        return (
            f"the middle 80 % of the runs spread over {100 * self.spread:.0f} % of the median: "
            "the machine was busy or changed its clock; profile again when it is idle"
        )

    @property
    def operators_share(self) -> float | None:
        """The sum of the operators' times over that of a whole run, 1 when they account for it."""
        if self.operators is None:
            return None
        return self.operators.total_ms / (self.operators.whole_ms or self.typical_ms)

    def summary(self) -> dict[str, object]:
        """Everything, with the derived figures, as plain JSON values."""
        statistics = self.statistics
        figures: dict[str, object] = {
            "artefact": self.artefact,
            "device": self.device,
            "partial": self.partial,
            "runtime": self.runtime,
            "requested": self.requested,
            "delegate": self.delegate,
            "threads": self.threads,
            "input_shape": list(self.input_shape),
            **{f"p{share}_ms": getattr(statistics, f"p{share}_ms") for share in (50, 90, 95, 99)},
            "min_ms": statistics.min_ms,
            "max_ms": statistics.max_ms,
            "mean_ms": self.mean_ms,
            "std_ms": self.std_ms,
            "cv": self.std_ms / self.mean_ms,
            "spread": self.spread,
            "warning": self.warning,
            "runs": self.runs,
            "first_ms": self.first_ms,
            "load_ms": self.load_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "working_set_mb": self.working_set_mb,
            "warm_up_ms": list(self.warm_up_ms),
            "samples_ms": list(self.samples_ms),
        }
        return figures | self._circumstances() | self._tables()

    def _circumstances(self) -> dict[str, object]:
        names = ("machine", "system", "python", "cores", "board", "processor", "affinity", "before", "after")
        found = {name: plain(getattr(self, name)) for name in names}
        energy = None
        if self.energy is not None:
            one = {"watts": self.energy.watts, "millijoules_per_run": self.energy.millijoules(self.runs)}
            energy = {"source": self.energy.source, "joules": self.energy.joules, **one}
        return found | {"energy": energy, "energy_reason": self.energy_reason}

    def _tables(self) -> dict[str, object]:
        found: dict[str, object] = {"placed": plain(self.placed), "operators_reason": self.operators_reason}
        found["operators"] = None
        if self.operators is not None:
            found["operators"] = {
                "total_ms": self.operators.total_ms,
                "whole_ms": self.operators.whole_ms or self.typical_ms,
                "share_of_whole": self.operators_share,
                "profiler_us_each": self.operators.cost_us,
                "by_kind": [list(row) for row in self.operators.by_kind()],
                "by_block": [list(row) for row in self.operators.by_block()],
                "each": plain(self.operators.operators),
            }
        found["sustained"] = None
        if self.sustained is not None:
            names = ("duration", "window", "retention", "hottest_c")
            figures = {name: getattr(self.sustained, name) for name in names}
            found["sustained"] = {**figures, "seconds": plain(self.sustained.seconds)}
        return found


class UnfinishedProfileError(EdgevitError):
    """A measurement ended early; what had been measured by then is in `profile`."""

    exit_code = 1

    def __init__(self, message: str, profile: LatencyProfile, *, interrupted: bool) -> None:
        super().__init__(message)
        self.profile = profile
        if interrupted:
            self.exit_code = 130


class InterruptedProfileError(EdgevitError):
    """A measurement was interrupted before there was anything to report."""

    exit_code = 130


def histogram(samples: Sequence[float], bins: int = 40) -> list[tuple[float, float, int]]:
    """(from, to, count) of equal bins up to the 99th percentile, the rest in the last one.

    >>> histogram([1.0, 1.0, 2.0], bins=2)
    [(1.0, 1.5, 2), (1.5, 2.0, 1)]
    """
    values = np.asarray(samples, dtype=np.float64)
    top = np.percentile(values, 99) if len(values) >= 100 else values.max()
    counts, edges = np.histogram(np.minimum(values, top), bins=bins)
    rounded = [float(np.round(edge, 9)) for edge in edges]
    return list(zip(rounded, rounded[1:], map(int, counts), strict=False))
