"""How long each segment takes on each device: measured, or an estimate that says it is one."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgevit.errors import EdgevitError, closest
from edgevit.files import existing_file
from edgevit.planning.cluster import Cluster, Machine
from edgevit.planning.problem import Chain, Host, Problem, Segment
from edgevit.profiles.documents import Document, Strict, Text, read_located

_DOCUMENT = Document(noun="table of times", version=1, example="seconds:", depth=3)

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TimingsFile(Strict):
    """Measured times as they are written.

    Attributes:
        seconds: of each segment, in order, by the name of a device or of an entry of the cluster file.
    """

    version: Literal[1]
    seconds: Annotated[dict[Text, Annotated[tuple[Seconds, ...], Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True)
class Timings:
    """Measured times.

    Attributes:
        seconds: of each segment, by the name of a device or of an entry of the cluster file.
        source: where they come from, in a word or two.
    """

    seconds: Mapping[str, tuple[float, ...]]
    source: str


@dataclass(frozen=True)
class Predicted:
    """Times from operators that were measured on a device.

    Attributes:
        seconds: of each segment.
        note: what must be known of them.
    """

    seconds: tuple[float, ...]
    note: str


def read_timings(path: str | Path, segments: int) -> Timings:
    """Read times, from YAML or CSV.

    YAML: ``seconds: {pi-1: [0.01, 0.02]}``. CSV: a column for each device, its name on the first line, and a
    line for each segment.

    Args:
        path: ending in .csv, .yaml or .yml.
        segments: of the model.

    Raises:
        EdgevitError: naming the file and the line of what is wrong.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return Timings(_columns(path, segments), path.name)
    file = read_located(path, TimingsFile, _DOCUMENT)
    for name, values in file.value.seconds.items():
        if len(values) != segments:
            raise file.error(
                ("seconds", name), f"has {len(values)} values; the model has {segments} segments"
            )
    return Timings(file.value.seconds, path.name)


def _columns(path: Path, segments: int) -> dict[str, tuple[float, ...]]:
    with existing_file(path, "costs").open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = [row for row in csv.reader(stream) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise EdgevitError(f"{path} is no CSV file in UTF-8; write a column for each device") from error
    if not rows:
        raise EdgevitError(f"{path} is empty; write a line of device names and a line for each segment")
    names, *lines = rows
    if len(lines) != segments:
        raise EdgevitError(f"{path} has {len(lines)} lines of times; the model has {segments} segments")
    if len({*names}) != len(names):
        raise EdgevitError(f"{path}, line 1: a device is named twice; keep one column of each")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise EdgevitError(f"{path}, line {number}: has {len(line)} values for {len(names)} devices")
    return {
        name: tuple(_number(path, number, line[place]) for number, line in enumerate(lines, start=2))
        for place, name in enumerate(names)
    }


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise EdgevitError(f"{path}, line {line}: {text!r} is no time; write seconds of at least 0")
    return value


def problem_of(
    cluster: Cluster,
    chain: Chain,
    timings: Timings | None = None,
    max_memory: float = math.inf,
    predicted: Mapping[str, Predicted] | None = None,
) -> tuple[Problem, tuple[str, ...]]:
    """The problem of a chain on a cluster, and what in it was not measured.

    Args:
        cluster: the devices.
        chain: what is to run.
        timings: measured times; a device without any is predicted, or else estimated from its
            multiply-accumulates in a second.
        max_memory: bytes that no device may exceed.
        predicted: times by the name of an entry of the cluster file.

    Raises:
        EdgevitError: where a device has neither times nor a speed, times are of none, or a pin cannot be.
    """
    if timings is not None:
        _check_known(cluster, timings)
    hosts, notes = [], [*cluster.notes]
    for machine in cluster.machines:
        seconds, note = _seconds(cluster, machine, chain, timings, predicted or {})
        hosts.append(_host(machine, chain, seconds, max_memory))
        notes += [] if note is None else [note]
    _check_pins(cluster, chain, hosts)
    problem = Problem(chain, tuple(hosts), cluster.media, cluster.source, cluster.sink, cluster.pins)
    return problem, tuple(dict.fromkeys(notes))


def _check_known(cluster: Cluster, timings: Timings) -> None:
    known = {name for machine in cluster.machines for name in (machine.name, machine.entry.name)}
    for name in timings.seconds:
        if name not in known:
            raise EdgevitError(
                f"{timings.source}: {name} is no device of the cluster; {closest(name, known)}"
            )


def _seconds(
    cluster: Cluster,
    machine: Machine,
    chain: Chain,
    timings: Timings | None,
    predicted: Mapping[str, Predicted],
) -> tuple[tuple[float, ...], str | None]:
    measured = {} if timings is None else timings.seconds
    found = measured.get(machine.name, measured.get(machine.entry.name))
    if found is not None:
        return found, None
    speed, name = machine.entry.macs_per_second, machine.entry.name
    if speed is None and name in predicted:
        return predicted[name].seconds, predicted[name].note
    if speed is None:
        raise cluster.refused(
            _loc(cluster, machine),
            f"nothing says how fast {name} is; give macs_per_second, its measured times with --costs, or a "
            "profile with measured operators",
        )
    if any(segment.macs is None for segment in chain.segments):
        raise cluster.refused(
            _loc(cluster, machine),
            f"the model does not say its arithmetic; give times of {name} with --costs",
        )
    seconds = tuple((segment.macs or 0) / speed for segment in chain.segments)
    return seconds, f"times of {name} are its multiply-accumulates over macs_per_second, an estimate"


def _loc(cluster: Cluster, machine: Machine) -> tuple[int | str, ...]:
    entries = () if cluster.file is None else cluster.file.value.devices
    place = next((i for i, entry in enumerate(entries) if entry.name == machine.entry.name), 0)
    return ("devices", place)


def _host(machine: Machine, chain: Chain, seconds: tuple[float, ...], max_memory: float) -> Host:
    return Host(
        name=machine.name,
        seconds=seconds,
        memory_bytes=min(machine.memory_bytes, max_memory),
        bandwidth=machine.bandwidth,
        latency=machine.latency,
        joules=_joules(machine, chain, seconds),
        joules_per_byte=machine.entry.joules_per_byte,
        conversion=machine.entry.conversion_bytes_per_second,
        medium=machine.medium,
    )


def _joules(machine: Machine, chain: Chain, seconds: tuple[float, ...]) -> tuple[float, ...] | None:
    entry = machine.entry
    if entry.watts is not None:
        return tuple(entry.watts * value for value in seconds)
    macs = [segment.macs for segment in chain.segments]
    if entry.joules_per_mac is None or None in macs:
        return None
    return tuple(entry.joules_per_mac * count for count in macs if count is not None)


def _check_pins(cluster: Cluster, chain: Chain, hosts: list[Host]) -> None:
    """Refuse a pin to segments that there are none of, or to a device that has no room for them."""
    count = len(chain.segments)
    for place, pin in enumerate(cluster.pins):
        loc = ("roles", "pinned", place)
        if pin.last >= count:
            raise cluster.refused(
                (*loc, "last"), f"there is no segment {pin.last}; the last one is {count - 1}"
            )
        host = next(host for host in hosts if host.name == pin.host)
        needed = _least_bytes(chain.segments[pin.first : pin.last + 1])
        if needed > host.memory_bytes:
            raise cluster.refused(
                loc,
                f"segments {pin.first} to {pin.last} need {needed:,.0f} bytes, and {pin.host} has "
                f"{host.memory_bytes:,.0f}; pin fewer, or to a device with more memory",
            )


def _least_bytes(segments: tuple[Segment, ...]) -> float:
    return sum(s.weight_bytes for s in segments) + max(s.peak_bytes for s in segments)
