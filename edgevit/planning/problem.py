"""What is planned, as plain data: a chain of segments, hosts that may run them, and how these are connected.

Times are seconds and sizes bytes of one item: one image, or as many as travel together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgevit.errors import EdgevitError, closest

Objective = Literal["latency", "throughput", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "energy")

#: Bytes of one element on the wire.
WIRE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Segment:
    """What lies between two successive cuts; it runs on one host.

    Attributes:
        name: what it is called.
        weight_bytes: that it holds for as long as it is loaded.
        peak_bytes: of activations that it holds while it runs.
        macs: multiply-accumulates; None where they were not counted.
    """

    name: str
    weight_bytes: float
    peak_bytes: float = 0.0
    macs: int | None = None

    def __post_init__(self) -> None:
        _check_amount(f"segment {self.name}", "weight_bytes", self.weight_bytes)
        _check_amount(f"segment {self.name}", "peak_bytes", self.peak_bytes)


@dataclass(frozen=True)
class Wire:
    """One way to send what crosses a cut.

    Attributes:
        precision: of its elements, a key of `WIRE_BYTES`.
        bytes: that are sent.
    """

    precision: str
    bytes: float


@dataclass(frozen=True)
class Cut:
    """A place where the chain may be divided.

    Attributes:
        name: what it is called.
        wires: the ways to send what crosses, one at least, the first of them without any conversion.
        entering_bytes: of buffers on the host behind it, beside what its segments hold.
        leaving_bytes: likewise, on the host before it.
    """

    name: str
    wires: tuple[Wire, ...]
    entering_bytes: float = 0.0
    leaving_bytes: float = 0.0

    def __post_init__(self) -> None:
        for wire in self.wires:
            _check_amount(f"cut {self.name}", "bytes", wire.bytes)
        _check_amount(f"cut {self.name}", "entering_bytes", self.entering_bytes)
        _check_amount(f"cut {self.name}", "leaving_bytes", self.leaving_bytes)


@dataclass(frozen=True)
class Chain:
    """A model as a pipeline sees it.

    Attributes:
        segments: in the order in which they run.
        cuts: before the first segment, what is asked; between any two; behind the last, the answer.
    """

    segments: tuple[Segment, ...]
    cuts: tuple[Cut, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise EdgevitError("segments: there are none; one at least is needed")
        if len(self.cuts) != len(self.segments) + 1:
            raise EdgevitError(
                f"cuts: {len(self.segments)} segments have {len(self.segments) + 1}, not {len(self.cuts)}"
            )


@dataclass(frozen=True)
class Host:
    """A device as the planner sees it.

    Attributes:
        name: what it is called; no two are called the same.
        seconds: of each segment; infinite where it cannot run one.
        memory_bytes: what its segments may take together; infinite where nothing limits them.
        bandwidth: bytes in a second, in and out at the same time; infinite where it costs nothing.
        latency: seconds that it adds to each transfer in which it takes part.
        joules: of each segment; None where nobody knows.
        joules_per_byte: sent or received.
        conversion: bytes in a second, of elements before they are narrowed or after they are widened again;
            None where it costs nothing that is known.
        medium: the shared medium on which it is; None on a switch, where each has a line of its own.
    """

    name: str
    seconds: tuple[float, ...]
    memory_bytes: float = math.inf
    bandwidth: float = math.inf
    latency: float = 0.0
    joules: tuple[float, ...] | None = None
    joules_per_byte: float = 0.0
    conversion: float | None = None
    medium: str | None = None

    def __post_init__(self) -> None:
        for value in self.seconds:
            _check_amount(f"device {self.name}", "seconds", value, infinite=True)
        for value in self.joules or ():
            _check_amount(f"device {self.name}", "joules", value)
        _check_amount(f"device {self.name}", "memory_bytes", self.memory_bytes, infinite=True)
        _check_amount(f"device {self.name}", "latency", self.latency)
        _check_amount(f"device {self.name}", "joules_per_byte", self.joules_per_byte)
        if not self.bandwidth > 0 or (self.conversion is not None and not self.conversion > 0):
            raise EdgevitError(f"device {self.name}: bandwidth and conversion must be above 0")


@dataclass(frozen=True)
class Medium:
    """What several hosts share, such as a radio channel: one transfer takes what another then lacks.

    Attributes:
        name: what it is called.
        bandwidth: bytes in a second of all transfers together.
    """

    name: str
    bandwidth: float

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth < math.inf:
            raise EdgevitError(f"network {self.name}: bandwidth must be above 0 and finite")


@dataclass(frozen=True)
class Pin:
    """Segments that may not leave a host.

    Attributes:
        host: its name.
        first: index of the first segment.
        last: of the last.
    """

    host: str
    first: int
    last: int


@dataclass(frozen=True)
class Problem:
    """A chain and where it may run.

    Attributes:
        chain: what is to run.
        hosts: where; some may be left without work.
        media: what hosts share.
        source: the host that has what is asked; None where it costs nothing to bring it to any.
        sink: the host that wants the answer; None likewise.
        pins: segments that may not leave a host.
    """

    chain: Chain
    hosts: tuple[Host, ...]
    media: tuple[Medium, ...] = ()
    source: str | None = None
    sink: str | None = None
    pins: tuple[Pin, ...] = ()

    def __post_init__(self) -> None:
        if not self.hosts:
            raise EdgevitError("devices: there are none; one at least is needed")
        check_names([host.name for host in self.hosts], "device")
        self._check_lengths()
        self._check_references()

    def _check_lengths(self) -> None:
        count = len(self.chain.segments)
        for host in self.hosts:
            for what, values in (("seconds", host.seconds), ("joules", host.joules)):
                if values is not None and len(values) != count:
                    raise EdgevitError(
                        f"device {host.name}: {what} has {len(values)} values; the model has {count} segments"
                    )

    def _check_references(self) -> None:
        names = [host.name for host in self.hosts]
        for role, name in (("input", self.source), ("answer", self.sink)):
            if name is not None and name not in names:
                raise EdgevitError(f"{role}: {name!r} is no device; {closest(name, names)}")
        media = [medium.name for medium in self.media]
        for host in self.hosts:
            if host.medium is not None and host.medium not in media:
                raise EdgevitError(f"device {host.name}: {host.medium!r} is no shared network")
        for pin in self.pins:
            if pin.host not in names:
                raise EdgevitError(f"pinned: {pin.host!r} is no device; {closest(pin.host, names)}")
            if not 0 <= pin.first <= pin.last < len(self.chain.segments):
                raise EdgevitError(
                    f"pinned: segments {pin.first} to {pin.last} of {pin.host} are not among the "
                    f"{len(self.chain.segments)} of the model"
                )

    def host(self, name: str) -> Host:
        """The host of a name."""
        return next(host for host in self.hosts if host.name == name)

    def without(self, name: str) -> Problem | None:
        """The same without a host; None where the input, the answer or a pinned segment is lost with it."""
        needed = {self.source, self.sink, *(pin.host for pin in self.pins)}
        left = tuple(host for host in self.hosts if host.name != name)
        return None if name in needed or not left else replace(self, hosts=left)


@dataclass(frozen=True)
class Ensemble:
    """What is placed.

    Attributes:
        problem: parts are the segments of its chain, whose order says nothing here; its first cut is what is
            asked.
        sent_bytes: of the features of each part.
        fusion_seconds: of making one answer of all features.
    """

    problem: Problem
    sent_bytes: tuple[float, ...]
    fusion_seconds: float = 0.0

    @property
    def asked_bytes(self) -> float:
        """Of what is asked."""
        return self.problem.chain.cuts[0].wires[0].bytes


def unknown_energy(device: str) -> EdgevitError:
    """What is said where energy is to be low and a device does not say what it takes."""
    return EdgevitError(
        f"device {device}: how much energy it takes is not known; give watts or joules_per_mac for each "
        "device, or another objective"
    )


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse a name that is given twice.

    Raises:
        EdgevitError: naming it.
    """
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise EdgevitError(f"{what} {name}: {count} are called so; give each a name of its own")


def _check_amount(of: str, what: str, value: float, *, infinite: bool = False) -> None:
    if not value >= 0 or (math.isinf(value) and not infinite):
        raise EdgevitError(f"{of}: {what} must be at least 0{'' if infinite else ' and finite'}, not {value}")
