"""A cluster as a run has shown it to be: measured times and lines in place of those it was planned by.

A run measures what a device takes for the segments that it had, together. Among these the time is divided as
the table of the device had it; its other segments are taken to be wrong by as much. A device that had nothing
to do is taken to be as wrong as others of its entry in the cluster file, and is left alone where there are
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgevit.errors import closest
from edgevit.files import sha256_of
from edgevit.planning.cluster import Cluster
from edgevit.planning.plan_file import TaskEntry, WireEntry
from edgevit.planning.problem import Chain, Host, Problem
from edgevit.planning.run_file import MeasuredTask, RunFile
from edgevit.profiles.documents import Located

# Devices that a note names.
_NAMED = 12


@dataclass(frozen=True)
class Measurement:
    """What a host took for some segments.

    Attributes:
        host: its name.
        segments: indices of what it ran, of a chain's segments or of an ensemble's parts.
        seconds: of computing for one item, without conversions.
    """

    host: str
    segments: tuple[int, ...]
    seconds: float


def read_run(path: Path, model: Path) -> Located[RunFile]:
    """A run file, if it is of this model.

    Args:
        path: of the file.
        model: the Program, or the manifest of a split.

    Raises:
        EdgevitError: naming what is wrong in the file; when the run was of another model.
    """
    file = RunFile.read(path)
    if file.value.model_sha256 != sha256_of(model):
        raise file.error(
            ("model_sha256",),
            f"the run was of another model, {file.value.model}, not of {model}; run a plan of this one",
        )
    return file


def measurements_of(file: Located[RunFile], problem: Problem, parts: Sequence[str] = ()) -> list[Measurement]:
    """What a run measured of a problem.

    Args:
        file: the run.
        problem: whose hosts it ran on.
        parts: names of the segments, of an ensemble.

    Raises:
        EdgevitError: naming the file and the line of a device or of segments that the problem has not.
    """
    found = []
    hosts = {host.name: host for host in problem.hosts}
    for place, task in enumerate(file.value.tasks):
        loc = ("tasks", place, "planned")
        name = task.planned.device
        if name not in hosts:
            raise file.error((*loc, "device"), f'no device is called "{name}"; {closest(name, hosts)}')
        segments = _segments(task, parts)
        if segments is None or segments[-1] >= len(problem.chain.segments):
            raise file.error(loc, "are no segments or parts of the model")
        if task.runs:
            seconds = max(0.0, task.seconds - _conversions(task.planned, problem.chain, hosts[name]))
            found.append(Measurement(name, segments, seconds))
    return found


def _segments(task: MeasuredTask, parts: Sequence[str]) -> tuple[int, ...] | None:
    if task.part is not None:
        return (parts.index(task.part),) if task.part in parts else None
    if parts or task.planned.first is None or task.planned.last is None:
        return None
    return tuple(range(task.planned.first, task.planned.last + 1))


def _conversions(task: TaskEntry, chain: Chain, host: Host) -> float:
    """Seconds of narrowing and widening that are counted apart from the segments."""
    if host.conversion is None or task.first is None or task.last is None:
        return 0.0
    ends: list[tuple[int, WireEntry]] = [(task.first, task.received), (task.last + 1, task.sent)]
    natives = [(chain.cuts[place].wires[0], wire) for place, wire in ends if place < len(chain.cuts)]
    return (
        sum(native.bytes for native, wire in natives if wire.precision != native.precision) / host.conversion
    )


def ratios_of(problem: Problem, measurements: Sequence[Measurement]) -> dict[str, float]:
    """How many times as long as its table says each measured host takes."""
    ratios = {}
    for host in problem.hosts:
        own = [each for each in measurements if each.host == host.name]
        expected = sum(host.seconds[segment] for each in own for segment in each.segments)
        if own:
            ratios[host.name] = sum(each.seconds for each in own) / expected if expected else 1.0
    return ratios


def ratios_of_cluster(cluster: Cluster, ratios: Mapping[str, float]) -> dict[str, float]:
    """The same with the hosts that were not measured but are of the entry of one that was: their mean."""
    of_entry: dict[str, list[float]] = {}
    for machine in cluster.machines:
        if machine.name in ratios:
            of_entry.setdefault(machine.entry.name, []).append(ratios[machine.name])
    means = {name: sum(values) / len(values) for name, values in of_entry.items()}
    known = {m.name: means[m.entry.name] for m in cluster.machines if m.entry.name in means}
    return known | dict(ratios)


def corrected_times(
    problem: Problem, measurements: Sequence[Measurement], ratios: Mapping[str, float]
) -> dict[str, tuple[float, ...]]:
    """Seconds of each segment on each host: what was measured of those that ran there, the others by ratio.

    Args:
        problem: with the times that were planned by.
        measurements: of its segments.
        ratios: of hosts, by name; one that has none stays as it is.
    """
    times = {}
    for host in problem.hosts:
        ratio = ratios.get(host.name, 1.0)
        seconds = [ratio * value for value in host.seconds]
        for each in measurements:
            if each.host == host.name:
                _divide(each, host, seconds)
        times[host.name] = tuple(seconds)
    return times


def _divide(measured: Measurement, host: Host, seconds: list[float]) -> None:
    """Put a measured time in place of those of its segments, divided as these were."""
    expected = sum(host.seconds[segment] for segment in measured.segments)
    for segment in measured.segments:
        share = host.seconds[segment] / expected if expected else 1 / len(measured.segments)
        seconds[segment] = share * measured.seconds


def corrected_lines(cluster: Cluster, file: Located[RunFile]) -> Cluster:
    """A cluster whose lines are as fast as was measured from where the coordinator was."""
    measured = {line.device: line.bytes_per_second for line in file.value.lines}
    machines = [replace(m, bandwidth=measured.get(m.name, m.bandwidth)) for m in cluster.machines]
    # A shared network is at least as fast as one transfer over it was.
    media = [
        replace(medium, bandwidth=max([medium.bandwidth, *_over(medium.name, cluster, measured)]))
        for medium in cluster.media
    ]
    return replace(cluster, machines=tuple(machines), media=tuple(media))


def _over(medium: str, cluster: Cluster, measured: Mapping[str, float]) -> list[float]:
    return [measured[m.name] for m in cluster.machines if m.medium == medium and m.name in measured]


def notes_of(cluster: Cluster, file: Located[RunFile], ratios: Mapping[str, float]) -> tuple[str, ...]:
    """What a plan out of a run must say of its times and lines."""
    run, name = file.value, file.path.name
    measured = {task.planned.device for task in run.tasks if task.runs}
    factors = [f"{host} x {ratio:.3g}" for host, ratio in ratios.items() if host in measured]
    notes = [f"times are those of {name}, {run.n} items of plan {run.plan_sha256[:12]}: {_list(factors)}"]
    alike = [host for host in ratios if host not in measured]
    if alike:
        notes.append(f"not measured, taken to be like others of their entry: {_list(alike)}")
    unknown = [machine.name for machine in cluster.machines if machine.name not in ratios]
    if unknown:
        notes.append(f"not measured, as the cluster file has them: {_list(unknown)}")
    if run.lines:
        notes.append(f"lines are those of {name}, measured from the coordinator: none is faster than its own")
    return tuple(notes)


def _list(words: Sequence[str]) -> str:
    rest = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + rest
