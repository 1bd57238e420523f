"""Devices, how they are connected, and which have a role: a cluster file and profiles put together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import EdgevitError, closest
from edgevit.planning.cluster_file import ClusterFile, DeviceEntry, NetworkEntry, read_cluster_file
from edgevit.planning.problem import Medium, Pin
from edgevit.profiles import DeviceProfile, load_profile
from edgevit.profiles.documents import Loc, Located
from edgevit.profiles.schema import Format

_MEBI = 2**20


@dataclass(frozen=True)
class Machine:
    """A device of a cluster, all that is known put together.

    Attributes:
        name: what it is called.
        entry: what the file says of it and of those like it.
        memory_bytes: what the model may take.
        bandwidth: bytes in a second.
        latency: seconds that it adds to a transfer.
        medium: the shared network that it is on, if any.
        format: of the artefact that it runs.
        notes: what of this was not measured.
    """

    name: str
    entry: DeviceEntry
    memory_bytes: float
    bandwidth: float
    latency: float
    medium: str | None
    format: Format
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Devices and how they are connected.

    Attributes:
        machines: all devices.
        media: networks that they share.
        source: the device that has the images, if that matters.
        sink: the device that wants the answers, likewise.
        pins: segments that may not leave a device.
        file: what it was read from; None where nothing was.
    """

    machines: tuple[Machine, ...]
    media: tuple[Medium, ...] = ()
    source: str | None = None
    sink: str | None = None
    pins: tuple[Pin, ...] = ()
    file: Located[ClusterFile] | None = None

    def refused(self, loc: Loc, problem: str) -> EdgevitError:
        """An error at a place of the file it was read from."""
        return EdgevitError(problem) if self.file is None else self.file.error(loc, problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not measured, of all machines."""
        return tuple(dict.fromkeys(note for machine in self.machines for note in machine.notes))


def read_cluster(path: str | Path) -> Cluster:
    """Read a cluster file.

    Given::

        version: 1
        networks:
          - {name: lan, bytes_per_second: 1.25e+8, latency_seconds: 0.0002}
        devices:
          - {name: camera, profile: raspberry-pi-4, macs_per_second: 2.0e+9, network: lan}
          - {name: board, count: 3, macs_per_second: 8.0e+9, memory_bytes: 1.0e+9, network: lan}
        roles: {input: camera, answer: camera}

    Raises:
        EdgevitError: naming the file, the line and the key of the first thing that is wrong.
    """
    file = read_cluster_file(Path(path))
    _check_networks(file)
    machines = tuple(_machines(file))
    _check_names(file)
    names = [machine.name for machine in machines]
    roles = file.value.roles
    for role, name in (("input", roles.input), ("answer", roles.answer)):
        if name is not None and name not in names:
            raise file.error(("roles", role), f'no device is called "{name}"; {closest(name, names)}')
    for place, pin in enumerate(roles.pinned):
        if pin.device not in names:
            known = closest(pin.device, names)
            raise file.error(
                ("roles", "pinned", place, "device"), f'no device is called "{pin.device}"; {known}'
            )
        if pin.last < pin.first:
            raise file.error(("roles", "pinned", place, "last"), f"must be at least {pin.first}, the first")
    return Cluster(
        machines,
        tuple(Medium(each.name, each.bytes_per_second) for each in file.value.networks if each.shared),
        roles.input,
        roles.answer,
        tuple(Pin(pin.device, pin.first, pin.last) for pin in roles.pinned),
        file,
    )


def _check_networks(file: Located[ClusterFile]) -> None:
    seen: set[str] = set()
    for place, network in enumerate(file.value.networks):
        if network.name in seen:
            raise file.error(
                ("networks", place, "name"), f'"{network.name}" is there already; name each apart'
            )
        seen.add(network.name)


def _check_names(file: Located[ClusterFile]) -> None:
    seen: set[str] = set()
    for place, entry in enumerate(file.value.devices):
        for name in names_of(entry):
            if name in seen:
                raise file.error(("devices", place, "name"), f'"{name}" is there already; name each apart')
            seen.add(name)


def names_of(entry: DeviceEntry) -> list[str]:
    """Names of the devices of an entry."""
    return [entry.name] if entry.count == 1 else [f"{entry.name}-{i}" for i in range(1, entry.count + 1)]


def _machines(file: Located[ClusterFile]) -> Iterator[Machine]:
    for place, entry in enumerate(file.value.devices):
        machine = _machine(file, ("devices", place), entry)
        for name in names_of(entry):
            yield Machine(**{**vars(machine), "name": name})


def _machine(file: Located[ClusterFile], loc: Loc, entry: DeviceEntry) -> Machine:
    profile = _profile(file, loc, entry)
    network = _network(file, loc, entry)
    memory, memory_note = _memory(file, loc, entry, profile)
    bandwidth, bandwidth_note = _bandwidth(file, loc, entry, network, profile)
    latency = entry.latency_seconds
    if latency is None:
        latency = 0.0 if network is None else network.latency_seconds
    return Machine(
        name=entry.name,
        entry=entry,
        memory_bytes=memory,
        bandwidth=bandwidth,
        latency=latency,
        medium=network.name if network is not None and network.shared else None,
        format=_format(file, loc, entry, profile),
        notes=tuple(note for note in (memory_note, bandwidth_note) if note is not None),
    )


def _profile(file: Located[ClusterFile], loc: Loc, entry: DeviceEntry) -> DeviceProfile | None:
    if entry.profile is None:
        return None
    try:
        return load_profile(entry.profile)
    except EdgevitError as error:
        raise file.error((*loc, "profile"), str(error)) from error


def _network(file: Located[ClusterFile], loc: Loc, entry: DeviceEntry) -> NetworkEntry | None:
    if entry.network is None:
        return None
    networks = {network.name: network for network in file.value.networks}
    if entry.network not in networks:
        known = closest(entry.network, networks)
        raise file.error((*loc, "network"), f'no network is called "{entry.network}"; {known}')
    return networks[entry.network]


def _memory(
    file: Located[ClusterFile], loc: Loc, entry: DeviceEntry, profile: DeviceProfile | None
) -> tuple[float, str | None]:
    if entry.memory_bytes is not None:
        return entry.memory_bytes, None
    if profile is None or profile.memory_mb is None:
        where = "" if profile is None else f"; the profile {profile.name} does not have it"
        raise file.error((*loc, "memory_bytes"), f"missing; add what the model may take{where}")
    note = f"memory of {entry.name} is all that {profile.title} has; its system takes a part of it"
    return float(profile.memory_mb * _MEBI), note


def _bandwidth(
    file: Located[ClusterFile],
    loc: Loc,
    entry: DeviceEntry,
    network: NetworkEntry | None,
    profile: DeviceProfile | None,
) -> tuple[float, str | None]:
    given = [entry.bytes_per_second, None if network is None else network.bytes_per_second]
    known = [speed for speed in given if speed is not None]
    if known:
        return min(known), None
    rates = [] if profile is None else [link.mbps for link in profile.links if link.mbps is not None]
    if rates:
        return rates[
            0
        ] * 1e6 / 8, f"the line of {entry.name} has the nominal rate of its profile, an estimate"
    raise file.error(
        (*loc, "bytes_per_second"), "missing; add the speed of its line, or the network that it is on"
    )


def _format(
    file: Located[ClusterFile], loc: Loc, entry: DeviceEntry, profile: DeviceProfile | None
) -> Format:
    if profile is None:
        return entry.format or "onnx"
    if entry.format is not None and entry.format not in profile.formats:
        known = ", ".join(profile.formats)
        raise file.error((*loc, "format"), f"{profile.title} does not run {entry.format}; it runs {known}")
    chosen = entry.format or profile.formats[0]
    precisions = set(itertools.chain(*(backend.precisions for backend in profile.backends(chosen))))
    if entry.precision not in precisions:
        known = ", ".join(sorted(precisions))
        raise file.error(
            (*loc, "precision"),
            f"{profile.title} does not compute {chosen} in {entry.precision}, but in {known}",
        )
    return chosen


def unlimited(value: float) -> float | None:
    """A value as a file has it: None where nothing limits it."""
    return None if math.isinf(value) else value
