"""What a profile says: every raw sample, and the figures drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Middle 80 % of the runs wider than this share of the median: another run could say something else.
_WIDE_SPREAD = 0.25


@dataclass(frozen=True)
class LatencyProfile:
    """Latency and memory of one artefact on one device.

    All times are milliseconds of wall clock for one run of the artefact's batch; memory is MB (10^6
    bytes). `load_ms` includes the import of the runtime's library.
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
    peak_memory_mb: float
    working_set_mb: float
    machine: str
    system: str
    python: str
    cores: int

    def percentile(self, share: float) -> float:
        """The value below which `share` percent of the samples lie."""
        return float(np.percentile(self.samples_ms, share))

    @property
    def runs(self) -> int:
        """Timed runs, warm-up not counted."""
        return len(self.samples_ms)

    @property
    def mean_ms(self) -> float:
        """Mean of the samples."""
        return float(np.mean(self.samples_ms))

    @property
    def std_ms(self) -> float:
        """Standard deviation of the samples."""
        return float(np.std(self.samples_ms))

    @property
    def spread(self) -> float:
        """Width of the middle 80 % of the samples over their median."""
        return (self.percentile(90) - self.percentile(10)) / self.percentile(50)

    @property
    def warning(self) -> str | None:
        """Why the figures should not be trusted, or None."""
        if self.spread <= _WIDE_SPREAD:
            return None
        return (
            f"the middle 80 % of the runs spread over {100 * self.spread:.0f} % of the median: "
            "the machine was busy or changed its clock; profile again when it is idle"
        )

    def summary(self) -> dict[str, object]:
        """Everything, with the derived figures, as plain JSON values."""
        return {
            "artefact": self.artefact,
            "device": self.device,
            "runtime": self.runtime,
            "delegate": self.delegate,
            "threads": self.threads,
            "input_shape": list(self.input_shape),
            "p50_ms": self.percentile(50),
            "p90_ms": self.percentile(90),
            "p95_ms": self.percentile(95),
            "p99_ms": self.percentile(99),
            "min_ms": min(self.samples_ms),
            "max_ms": max(self.samples_ms),
            "mean_ms": self.mean_ms,
            "std_ms": self.std_ms,
            "spread": self.spread,
            "warning": self.warning,
            "runs": self.runs,
            "first_ms": self.first_ms,
            "load_ms": self.load_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "working_set_mb": self.working_set_mb,
            "warm_up_ms": list(self.warm_up_ms),
            "samples_ms": list(self.samples_ms),
            "machine": self.machine,
            "system": self.system,
            "python": self.python,
            "cores": self.cores,
        }


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
