"""Times of segments on devices whose profile has measured operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.planning.cluster import Cluster
from edgevit.planning.cluster_file import DeviceEntry
from edgevit.planning.timings import Predicted, Timings
from edgevit.prediction.operations import RUNTIMES
from edgevit.prediction.predicting import DevicePredictor, predict_program
from edgevit.profiles import DeviceProfile, load_profile

if TYPE_CHECKING:
    from edgevit.graph.cutting import Segment
    from edgevit.graph.program import Program
    from edgevit.prediction import Prediction


def predicted_times(
    cluster: Cluster, program: Program, segments: Sequence[Segment], timings: Timings | None = None
) -> dict[str, Predicted]:
    """Times by entry of the cluster file, of those with such a profile that say nothing better.

    The whole Program is predicted in the format that a device runs. Which operators a runtime makes of which
    segment is not known of every format: the segments share the whole by what they multiply and move.

    Args:
        cluster: the devices.
        program: what is to run.
        segments: of it.
        timings: measured ones.
    """
    known = {} if timings is None else timings.seconds
    found: dict[str, Predicted] = {}
    wholes: dict[tuple[str, str], tuple[DevicePredictor, Prediction]] = {}
    for machine in cluster.machines:
        entry = machine.entry
        if entry.name in found or entry.name in known or machine.name in known:
            continue
        profile = _measured_profile(entry, machine.format)
        if profile is None or entry.macs_per_second is not None:
            continue
        key = (profile.name, machine.format)
        if key not in wholes:
            predictor = DevicePredictor(profile, RUNTIMES[machine.format])
            wholes[key] = predictor, predict_program(program, predictor, machine.format)
        found[entry.name] = _shared(entry, *wholes[key], segments)
    return found


def _measured_profile(entry: DeviceEntry, format_: str) -> DeviceProfile | None:
    """The profile of an entry, if operators were measured in what runs the format, in this precision."""
    if entry.profile is None or entry.precision != "fp32" or format_ not in RUNTIMES:
        return None
    profile = load_profile(entry.profile)
    measured = profile.measured
    return None if measured is None or measured.of(RUNTIMES[format_]) is None else profile


def _shared(
    entry: DeviceEntry, predictor: DevicePredictor, whole: Prediction, segments: Sequence[Segment]
) -> Predicted:
    weights = [
        predictor.rough(segment.calls, segment.macs, segment.made_bytes + segment.weight_bytes)
        for segment in segments
    ]
    total = sum(weights) or 1.0
    interval = ""
    if whole.low_ms is not None and whole.high_ms is not None:
        interval = f" ({whole.low_ms:.3g} to {whole.high_ms:.3g})"
    note = (
        f"times of {entry.name} are predicted from operators measured on {whole.device}, {whole.runtime}, "
        f"threads {whole.threads}: {whole.ms:.3g} ms{interval} in all"
    )
    return Predicted(tuple(whole.ms / 1e3 * weight / total for weight in weights), note)
