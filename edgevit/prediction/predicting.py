"""The latency of a model on a device that it never ran on, and how far that may be wrong."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.prediction.operations import RUNTIMES, Operation, Timed
from edgevit.prediction.predictor import Predictor
from edgevit.prediction.regression import relative_least_squares
from edgevit.profiles import DeviceProfile, load_profile
from edgevit.profiles.measured import MeasuredModel, MeasuredOperator, MeasuredRuntime

if TYPE_CHECKING:
    from edgevit.graph.program import Program

#: Of ten models that were never measured, nine lie within the interval.
CONFIDENCE = 0.9


@dataclass(frozen=True)
class KindTime:
    """Operators of one kind.

    Attributes:
        kind: in the runtime's words.
        count: how many.
        ms: of all of them.
        measured: whether any of the kind was measured on the device.
    """

    kind: str
    count: int
    ms: float
    measured: bool


@dataclass(frozen=True)
class Prediction:
    """How long one run of a model takes on a device, of one image.

    Attributes:
        model: its file or name.
        device: name of the profile.
        runtime: that would run it, with the version that was measured.
        threads: of the runtime.
        ms: the median of runs on the device when it does nothing else.
        low_ms: nine of ten times the truth lies above; with `high_ms` from models of other families that were
            measured and predicted; None where the profile has none.
        high_ms: see `low_ms`.
        confidence: that the truth lies between.
        checked: how many models the interval is from.
        kinds: where the time goes, the longest first.
        notes: what else must be known of it.
    """

    model: str
    device: str
    runtime: str
    threads: int
    ms: float
    low_ms: float | None
    high_ms: float | None
    confidence: float
    checked: int
    kinds: tuple[KindTime, ...]
    notes: tuple[str, ...] = ()


class DevicePredictor:
    """Predicts for one device and one runtime.

    Args:
        profile: of the device.
        runtime: "onnxruntime" or "litert".

    Raises:
        EdgevitError: when the profile has no operators measured in it.
    """

    def __init__(self, profile: DeviceProfile, runtime: str) -> None:
        self.profile = profile
        self.table = _table_of(profile, runtime)
        self._predictor = Predictor([*map(_timed, self.table.operators)])

    def predict(self, model: str, operations: Sequence[Operation]) -> Prediction:
        """Predict a model of these operations.

        Args:
            model: what it is called.
            operations: as the runtime runs them; whether any multiplies integers decides which of the
                measured models say how far off this may be.
        """
        times = self._predictor.times(operations)
        checks = _checks(self.table.models, integers=_has_integers(operations))
        bias, width = error_of(checks)
        scale = math.exp(bias)
        total = scale * sum(times) / 1e3
        kinds = self._kinds(operations, [scale * time for time in times])
        return Prediction(
            model=model,
            device=self.profile.name,
            runtime=f"{self.table.runtime} {self.table.release}",
            threads=self.table.threads,
            ms=total,
            low_ms=None if width is None else total * math.exp(-width),
            high_ms=None if width is None else total * math.exp(width),
            confidence=CONFIDENCE,
            checked=len(checks),
            kinds=kinds,
            notes=tuple(self._notes(kinds, width)),
        )

    def rough(self, calls: int, macs: int, moved_bytes: int) -> float:
        """Microseconds of something of which no more is known: for shares of a whole, not for a time.

        Args:
            calls: how many operators.
            macs: multiply-accumulates of all.
            moved_bytes: that they read and write.
        """
        each, mac, byte = self._rough
        return each * calls + mac * macs + byte * moved_bytes

    @cached_property
    def _rough(self) -> tuple[float, float, float]:
        rows = self.table.operators
        columns = [(1.0, row.macs, row.read + row.written + row.weights) for row in rows]
        each, mac, byte = relative_least_squares(np.array(columns), np.array([row.us for row in rows]))
        return float(each), float(mac), float(byte)

    def _notes(self, kinds: Sequence[KindTime], width: float | None) -> Iterator[str]:
        measured = self.profile.measured
        if measured is not None and measured.partial is not None:
            yield f"the profile is partial ({measured.partial}): fewer operators were measured than there are"
        if width is None:
            yield "no interval: the profile has too few models to tell how far predictions are off"
        guessed = [kind for kind in kinds if not kind.measured]
        if guessed:
            names, share = ", ".join(kind.kind for kind in guessed), sum(kind.ms for kind in guessed)
            yield f"estimate: {share:.3g} ms are of kinds that were not measured there ({names})"

    def _kinds(self, operations: Sequence[Operation], times: Sequence[float]) -> tuple[KindTime, ...]:
        found: dict[str, list[float]] = {}
        known: dict[str, bool] = {}
        for operation, time in zip(operations, times, strict=True):
            found.setdefault(operation.kind, []).append(time)
            known[operation.kind] = self._predictor.knows(operation)
        kinds = [KindTime(kind, len(each), sum(each) / 1e3, known[kind]) for kind, each in found.items()]
        return tuple(sorted(kinds, key=lambda kind: -kind.ms))


def predict(source: str | Path, *, device: str | Path, to: str | None = None) -> Prediction:
    """Predict how long a model takes on a device, from operators that were measured there.

    Args:
        source: an exported artefact, a Program (.pt2), or a model as `capture` takes it; as it is quantized,
            so it is predicted.
        device: name or file of a device profile with measured operators (`edgevit profile --suite`).
        to: the format in which a Program runs: "onnx" or "tflite"; None is the first that was measured.

    Raises:
        EdgevitError: when nothing was measured on the device, or the source cannot be read or exported.
        MissingDependencyError: without the exporter of the format.
    """
    profile = load_profile(device)
    _check_measured(profile)
    path = Path(source)
    given = path.suffix.removeprefix(".")
    if given in RUNTIMES:
        if to not in (None, given):
            raise EdgevitError(f"--to {to}: {path} is an artefact already; leave it out")
        return DevicePredictor(profile, RUNTIMES[given]).predict(str(source), operations_of(path))
    to = _format(profile, to)
    predictor = DevicePredictor(profile, RUNTIMES[to])
    return replace(predict_program(_opened(source), predictor, to), model=str(source))


def predict_artefact(path: Path, profile: DeviceProfile) -> Prediction | None:
    """Predict an artefact on a device; None where nothing was measured there in its runtime.

    Args:
        path: an exported file.
        profile: of the device.

    Raises:
        EdgevitError: when the file is damaged.
        MissingDependencyError: without what reads it.
    """
    runtime = RUNTIMES.get(path.suffix.removeprefix("."))
    if runtime is None or profile.measured is None or profile.measured.of(runtime) is None:
        return None
    return DevicePredictor(profile, runtime).predict(path.name, operations_of(path))


def predict_program(program: Program, predictor: DevicePredictor, to: str) -> Prediction:
    """Predict a Program in a format.

    Args:
        program: as it is quantized, if it is.
        predictor: of the device.
        to: "onnx" or "tflite".

    Raises:
        EdgevitError: when it cannot be exported.
        MissingDependencyError: without the exporter of the format.
    """
    from edgevit.export.formats import FORMATS, ExportChoices

    format_ = FORMATS[to]
    extras.require(format_.extra, f"exporting to {to}")
    with tempfile.TemporaryDirectory() as folder:
        artefact = Path(folder) / format_.file
        format_.export(program, artefact, ExportChoices())
        return predictor.predict(program.card.name, operations_of(artefact))


def _opened(source: str | Path) -> Program:
    from edgevit.graph.capture import capture
    from edgevit.graph.program import Program

    if Path(source).suffix == ".pt2":
        return Program.load(Path(source))
    # How long it takes does not hang on its weights: nothing is downloaded.
    return capture(str(source), weights="random")


def operations_of(path: Path) -> list[Operation]:
    """The operations of an artefact.

    Raises:
        EdgevitError: when it is damaged, or no such file.
        MissingDependencyError: without what reads it.
    """
    from edgevit.export.artefacts import check_artefact

    path = check_artefact(path)
    extras.require(path.suffix.removeprefix("."), f"reading {path}")
    if path.suffix == ".onnx":
        from edgevit.export.onnx.check import check_file
        from edgevit.prediction import onnx_operations

        check_file(path)
        return onnx_operations.read_operations(path)
    from edgevit.prediction import litert_operations

    return litert_operations.read_operations(path)


def _check_measured(profile: DeviceProfile) -> None:
    if profile.measured is None or not profile.measured.runtimes:
        raise EdgevitError(
            f"{profile.name}: its profile has no measured operators, and datasheets do not say how long a "
            "model takes; run `edgevit profile --suite --device ssh://USER@HOST -o FILE.yaml`, give the file"
        )


def _format(profile: DeviceProfile, to: str | None) -> str:
    """What is asked for, or the first that was measured."""
    if to is not None and to not in RUNTIMES:
        raise EdgevitError(f"--to: {to!r} is not predicted; {closest(to, RUNTIMES)}")
    measured = () if profile.measured is None else profile.measured.runtimes
    runtimes = {table.runtime for table in measured}
    return to or next(name for name, runtime in RUNTIMES.items() if runtime in runtimes)


def _table_of(profile: DeviceProfile, runtime: str) -> MeasuredRuntime:
    _check_measured(profile)
    table = profile.measured.of(runtime) if profile.measured else None
    if table is None:
        measured = ", ".join(each.runtime for each in profile.measured.runtimes) if profile.measured else ""
        raise EdgevitError(f"{profile.name}: nothing was measured in {runtime}; what was is {measured}")
    return table


def _timed(row: MeasuredOperator) -> Timed:
    operation = Operation(row.kind, row.macs, row.read, row.written, row.weights, row.resident)
    return Timed(operation, row.us, frozenset(row.families))


def _has_integers(operations: Sequence[Operation]) -> bool:
    """Whether products are of integers."""
    return any("int8" in operation.kind for operation in operations if operation.macs)


def _checks(models: Sequence[MeasuredModel], *, integers: bool) -> list[float]:
    """Logarithms of measured over predicted time, of models of the same precision."""
    wanted = "int8" if integers else "fp32"
    alike = [model for model in models if model.precision == wanted]
    return [math.log(model.us / model.predicted_us) for model in alike or models]


def error_of(checks: Sequence[float]) -> tuple[float, float | None]:
    """By how much predictions are off in the mean, and the half width of the interval; both logarithms.

    The interval of one more value of a normal distribution of which some are known (Student).
    """
    if len(checks) < 3:
        return 0.0, None
    from scipy.stats import t

    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(checks) - 1))
    return float(np.mean(checks)), factor * float(np.std(checks, ddof=1)) * math.sqrt(1 + 1 / len(checks))
