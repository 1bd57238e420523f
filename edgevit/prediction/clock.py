"""A clock of a device that is not there: how long artefacts take, from what was measured on it."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import EdgevitError, closest
from edgevit.prediction.operations import RUNTIMES
from edgevit.prediction.predicting import DevicePredictor, operations_of
from edgevit.profiles import DeviceProfile
from edgevit.profiling.submodels import Taken


class PredictedClock:
    """Predicts for one device and one format; a `edgevit.profiling.submodels.Clock`.

    Args:
        profile: of a device, with operators measured on one thread.
        to: the format in whose runtime: "onnx" or "tflite".

    Raises:
        EdgevitError: when nothing was measured there in that runtime, or on more threads.
    """

    def __init__(self, profile: DeviceProfile, to: str) -> None:
        self.check(to)
        self._predictor = DevicePredictor(profile, RUNTIMES[to])
        threads = self._predictor.table.threads
        if threads != 1:
            raise EdgevitError(
                f"--device {profile.name}: its operators were measured on {threads} threads, and a latency "
                "is of one; run `edgevit profile --suite --threads 1`, give the file"
            )

    @property
    def device(self) -> str:
        """Name of the profile."""
        return self._predictor.profile.name

    def check(self, to: str) -> None:
        """Refuse a format that is not predicted."""
        if to not in RUNTIMES:
            raise EdgevitError(f"--to: {to!r} is not predicted; {closest(to, RUNTIMES)}")

    def relative(self, path: Path, plain: Path) -> float:
        """Both as they are predicted."""
        return self.alone(path).p50_ms / self.alone(plain).p50_ms

    def alone(self, path: Path) -> Taken:
        """As it is predicted, with what that leaves open."""
        found = self._predictor.predict(path.stem, operations_of(path))
        within = None if found.low_ms is None or found.high_ms is None else (found.low_ms, found.high_ms)
        return Taken(found.ms, within, "; ".join(found.notes) or None)
