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
class Send:
    """An item, or what was made of it, is sent."""

    sender: str
    receiver: str
    bytes: float


Step = Compute | Send


@dataclass
class _Server:
    """Something that serves one after another."""

    free_at: float = 0.0
    busy: float = 0.0
    longest: int = 0
    ends: deque[float] = field(default_factory=deque)

    def serve(self, time: float, seconds: float, until: float) -> float:
        """When what arrives at a time is done; what would be behind `until` is not counted."""
        while self.ends and self.ends[0] <= time:
            self.ends.popleft()
        if time <= until:
            # The one that is being served does not wait.
            self.longest = max(self.longest, len(self.ends))
        started = max(self.free_at, time)
        self.free_at = started + seconds
        self.busy += min(self.free_at, until) - min(started, until)
        self.ends.append(self.free_at)
        return self.free_at


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

    def take(self, step: Step, time: float, item: int) -> float:
        """When a step of an item that could begin at a time is done."""
        varied = self._varied()
        if isinstance(step, Compute):
            return self._serve("device", step.device, item, time, step.seconds * varied)
        sender, receiver = self._devices[step.sender], self._devices[step.receiver]
        lines = [
            ("out", sender.name, sender.bytes_per_second),
            ("in", receiver.name, receiver.bytes_per_second),
        ]
        lines += [
            ("shared", name, self._media[name])
            for name in sorted(
                {device.network for device in (sender, receiver) if device.network is not None}
            )
        ]
        passed = [
            self._serve(what, name, item, time, step.bytes / (speed or math.inf) * varied)
            for what, name, speed in lines
        ]
        return max(passed) + sender.latency_seconds + receiver.latency_seconds

    def fuse(self, time: float, seconds: float, item: int) -> float:
        """When one answer is made of all features."""
        return self._serve("device", "fusion", item, time, seconds * self._varied()) if seconds else time

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

    def _serve(self, what: str, name: str, item: int, time: float, seconds: float) -> float:
        end = self._servers.setdefault((what, name), _Server()).serve(time, seconds, self._until)
        self.spans.append(Span(what, name, item, end - seconds, end))
        return end

    def _varied(self) -> float:
        if self._sigma == 0:
            return 1.0
        return math.exp(float(self._random.normal(-(self._sigma**2) / 2, self._sigma)))
