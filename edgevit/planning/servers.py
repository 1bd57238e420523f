"""Devices, lines and shared media at work: each serves what waits for it in the order of arrival."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from edgevit.planning.plan_file import PlanFile


@dataclass(frozen=True)
class Load:
    """How busy something was.

    Attributes:
        what: "device", "in", "out" or "shared".
        name: of the device or the network.
        busy: share of the time from the first request to the last answer, 0 to 1.
        longest_queue: most that waited for it at once.
    """

    what: str
    name: str
    busy: float
    longest_queue: int


@dataclass(frozen=True)
class Span:
    """When something was busy with an item.

    Attributes:
        what: "device", "in", "out" or "shared".
        name: of the device or the network.
        item: which, from 0.
        start: in seconds.
        end: likewise.
    """

    what: str
    name: str
    item: int
    start: float
    end: float


@dataclass(frozen=True)
class Compute:
    """An item is computed on a device."""

    device: str
    seconds: float


@dataclass(frozen=True)
class Pass:
    """What is sent passes a line or a medium: the sender's line, shared media, the receiver's line.

    Attributes:
        what: "out", "shared" or "in".
        name: of the device or the network.
        seconds: for which it is busy.
        latency: that is added when all is there; None where more is to be passed.
    """

    what: str
    name: str
    seconds: float
    latency: float | None


Step = Compute | Pass


@dataclass
class _Server:
    """Something that serves one after another."""

    free_at: float = 0.0
    busy: float = 0.0
    longest: int = 0
    ends: deque[float] = field(default_factory=deque)

    def serve(self, time: float, seconds: float, until: float) -> tuple[float, float]:
        """From when to when what arrives at a time is served; what is behind `until` is not counted."""
        while self.ends and self.ends[0] <= time:
            self.ends.popleft()
        if time <= until:
            # The one that is being served does not wait.
            self.longest = max(self.longest, len(self.ends))
        started = max(self.free_at, time)
        self.free_at = started + seconds
        self.busy += min(self.free_at, until) - min(started, until)
        self.ends.append(self.free_at)
        return started, self.free_at


class Network:
    """Devices, their lines and shared media."""

    def __init__(self, plan: PlanFile, jitter: float, random: np.random.Generator) -> None:
        self.plan = plan
        self._devices = {device.name: device for device in plan.devices}
        self._media = {network.name: network.bytes_per_second for network in plan.networks}
        self._servers: dict[tuple[str, str], _Server] = {}
        self.spans: list[Span] = []
        self._random = random
        self._until = math.inf
        # Of a log-normal distribution with mean 1.
        self._sigma = math.sqrt(math.log1p(jitter**2))

    def passes(self, sender: str, receiver: str, size: float) -> list[Pass]:
        """What bytes from one device to another pass."""
        ends = self._devices[sender], self._devices[receiver]
        media = sorted({device.network for device in ends if device.network is not None})
        lines = [
            ("out", sender, ends[0].bytes_per_second),
            *(("shared", name, self._media[name]) for name in media),
            ("in", receiver, ends[1].bytes_per_second),
        ]
        latency = sum(device.latency_seconds for device in ends)
        return [
            Pass(what, name, size / (speed or math.inf), latency if what == "in" else None)
            for what, name, speed in lines
        ]

    def take(self, step: Step, time: float, item: int, there: float) -> tuple[float, float]:
        """Take a step of an item.

        A line begins as soon as the one before it does, and not before: what waits for that does not keep
        others from this one.

        Args:
            step: which.
            time: when it could begin.
            item: which, from 0.
            there: when all that is being sent has passed the lines before this one.

        Returns:
            When the next step could begin, and when all has passed the lines up to here.
        """
        if isinstance(step, Compute):
            return self._serve("device", step.device, item, time, step.seconds)[1], 0.0
        started, ended = self._serve(step.what, step.name, item, time, step.seconds)
        there = max(there, ended)
        return (started, there) if step.latency is None else (there + step.latency, 0.0)

    def fuse(self, time: float, seconds: float, item: int) -> float:
        """When one answer is made of all features."""
        return self._serve("device", "fusion", item, time, seconds)[1] if seconds else time

    def count_until(self, time: float) -> None:
        """Count no work that is done behind a time, until `drop` is called."""
        self._until = time

    def drop(self) -> None:
        """Everything that is not done at the time up to which is counted is dropped then."""
        for server in self._servers.values():
            server.free_at = min(server.free_at, self._until)
            server.ends.clear()
        self._until = math.inf

    def loads(self, seconds: float) -> list[Load]:
        """How busy everything was that did anything."""
        found = [
            Load(what, name, server.busy / seconds if seconds else 0.0, server.longest)
            for (what, name), server in self._servers.items()
        ]
        return sorted(found, key=lambda load: (-load.busy, load.what, load.name))

    def _serve(self, what: str, name: str, item: int, time: float, seconds: float) -> tuple[float, float]:
        server = self._servers.setdefault((what, name), _Server())
        started, ended = server.serve(time, seconds * self._varied(), self._until)
        self.spans.append(Span(what, name, item, started, ended))
        return started, ended

    def _varied(self) -> float:
        if self._sigma == 0:
            return 1.0
        return math.exp(float(self._random.normal(-(self._sigma**2) / 2, self._sigma)))
