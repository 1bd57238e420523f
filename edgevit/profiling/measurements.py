"""What a device reports beside the latency: conditions, energy, placement, operators, minutes of load."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Of sustained load, at either end.
_WINDOW_SECONDS = 30.0


@dataclass(frozen=True)
class Conditions:
    """State of a device at one moment; None where it cannot be read.

    Attributes:
        temperatures_c: degrees Celsius by thermal zone.
        mhz: clock of each core.
        governors: what sets the clocks.
    """

    temperatures_c: Mapping[str, float] | None
    mhz: tuple[float, ...] | None
    governors: tuple[str, ...] | None

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature."""
        return max(self.temperatures_c.values()) if self.temperatures_c else None

    @property
    def mean_mhz(self) -> float | None:
        """Mean clock of the cores."""
        return sum(self.mhz) / len(self.mhz) if self.mhz else None


@dataclass(frozen=True)
class Energy:
    """What the timed runs took, of everything behind the counter: the rest of the device is in it.

    Attributes:
        joules: over all timed runs.
        seconds: wall clock of the same.
        source: which counter.
    """

    joules: float
    seconds: float
    source: str

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds

    def millijoules(self, runs: int) -> float:
        """Of one run."""
        return 1e3 * self.joules / runs


@dataclass(frozen=True)
class FellBack:
    """Operators of one kind that what was asked for did not take."""

    kind: str
    count: int
    unit: str
    reason: str


@dataclass(frozen=True)
class Placed:
    """Where the operators ran.

    Attributes:
        units: how many operators of each kind, by what ran them.
        fell_back: those that did not run where it was asked for, most frequent first.
    """

    units: Mapping[str, Mapping[str, int]]
    fell_back: tuple[FellBack, ...] = ()

    def count(self, unit: str) -> int:
        """Operators that a unit ran."""
        return sum(self.units.get(unit, {}).values())

    @property
    def total(self) -> int:
        """Operators that ran."""
        return sum(map(self.count, self.units))


#: The type of a tensor and its sizes.
Shape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class OperatorTime:
    """One operator as the runtime ran it, which may be several of the file's fused.

    Attributes:
        name: in the runtime's graph.
        kind: Conv, MatMul and so on.
        unit: what ran it.
        ms: of one run.
        block: the part of the model that it belongs to; "" where that is not known.
        inputs: shapes of what it reads, but for weights that the runtime has packed; empty where the runtime
            does not say.
        outputs: likewise of what it gives.
    """

    name: str
    kind: str
    unit: str
    ms: float
    block: str
    inputs: tuple[Shape, ...] = ()
    outputs: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class OperatorTable:
    """Times of the operators, from runs of their own with the runtime's profiler on.

    Attributes:
        operators: in the order they ran.
        cost_us: microseconds that the profiler itself added to each, taken out again.
        whole_ms: a run without the profiler, in turns with those that were profiled; None where none was.
    """

    operators: tuple[OperatorTime, ...]
    cost_us: float
    whole_ms: float | None = None

    @property
    def total_ms(self) -> float:
        """Of all operators."""
        return sum(item.ms for item in self.operators)

    def by_kind(self) -> list[tuple[str, int, float]]:
        """(kind, operators, milliseconds), the longest first."""
        return _totals((item.kind, item.ms) for item in self.operators)

    def by_block(self) -> list[tuple[str, int, float]]:
        """The same by part of the model."""
        return _totals((item.block, item.ms) for item in self.operators)


def _totals(rows: Iterable[tuple[str, float]]) -> list[tuple[str, int, float]]:
    found: dict[str, list[float]] = {}
    for name, ms in rows:
        found.setdefault(name, []).append(ms)
    sums = [(name, len(times), sum(times)) for name, times in found.items()]
    return sorted(sums, key=lambda row: -row[2])


@dataclass(frozen=True)
class Second:
    """About a second of sustained load.

    Attributes:
        at: seconds since the load began.
        runs: how many runs it had.
        busy_ms: their times added up.
        p50_ms: their median.
        max_ms: the slowest.
        temperature_c: the highest, after it.
        mhz: mean clock of the cores, after it.
    """

    at: float
    runs: int
    busy_ms: float
    p50_ms: float
    max_ms: float
    temperature_c: float | None
    mhz: float | None


@dataclass(frozen=True)
class Sustained:
    """Load without a pause, to see what heat leaves of the speed.

    Attributes:
        seconds: one after another, not empty.
    """

    seconds: tuple[Second, ...]

    @property
    def duration(self) -> float:
        """Seconds of load."""
        return self.seconds[-1].at + self.seconds[-1].busy_ms / 1e3

    @property
    def window(self) -> float:
        """Seconds at either end that are compared: 30, or half of a shorter load."""
        return min(_WINDOW_SECONDS, self.duration / 2)

    @property
    def retention(self) -> float:
        """Runs per second at the end over those at the beginning."""
        first = [second for second in self.seconds if second.at < self.window]
        last = [second for second in self.seconds if second.at >= self.duration - self.window]
        return _rate(last or [self.seconds[-1]]) / _rate(first)

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature, where it can be read."""
        return max(
            (item.temperature_c for item in self.seconds if item.temperature_c is not None), default=None
        )


def _rate(seconds: list[Second]) -> float:
    return sum(second.runs for second in seconds) / sum(second.busy_ms for second in seconds)


def plain(value: object) -> object:
    """A measurement as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value
