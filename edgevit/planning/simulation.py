"""A plan at work, event by event: queues, lines that are shared, times that vary, a device that is lost.

What is computed waits until its device is free, what is sent until the line of either end and the shared
media are; each serves in the order of arrival. A line does not wait for the other end, so that a transfer
alone takes as long as the slowest of what it passes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry, PlanFile, TaskEntry

Times = npt.NDArray[np.float64]

#: Seconds after which a lost device is noticed.
NOTICED = 0.003


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
class Simulation:
    """What a plan did.

    Attributes:
        requests: that were made.
        answered: that got an answer.
        replayed: that were given to the other devices when one was lost.
        seconds: from the first request to the last answer.
        throughput: answers in a second over all that time.
        latencies: seconds of each answered request, in the order of the requests.
        loads: busiest first.
    """

    requests: int
    answered: int
    replayed: int
    seconds: float
    throughput: float
    latencies: tuple[float, ...]
    loads: tuple[Load, ...]

    def percentile(self, share: float) -> float:
        """Seconds within which a share of the answers came, in percent.

        Raises:
            EdgevitError: when there are none.
        """
        if not self.latencies:
            raise EdgevitError("no request was answered")
        return float(np.percentile(self.latencies, share))


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
class Scenario:
    """What happens to a plan.

    Attributes:
        requests: how many.
        rate: of them in a second, at random times; None for all at once.
        jitter: standard deviation of times over their mean.
        lost: a device that is lost; None for none.
        lost_at: when, in seconds.
        seed: of what is drawn.
    """

    requests: int
    rate: float | None = None
    jitter: float = 0.0
    lost: str | None = None
    lost_at: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise EdgevitError(f"requests: {self.requests}; at least 1 is needed")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise EdgevitError(f"rate: {self.rate:g}; must be above 0 and finite")
        if not 0 <= self.jitter < math.inf or not 0 <= self.lost_at < math.inf:
            raise EdgevitError("jitter and the time of a loss must be at least 0 and finite")


def simulate(plan: PlanFile, scenario: Scenario) -> Simulation:
    """Let a plan answer requests.

    Args:
        plan: with the plans for each lost device.
        scenario: what happens.

    Raises:
        EdgevitError: when the plan says nothing of the device that is lost.
    """
    random = np.random.default_rng(scenario.seed)
    asked = _arrivals(scenario, random)
    network = _Network(plan, scenario.jitter, random)
    after = plan.plan if scenario.lost is None else plan.without(scenario.lost)
    replayed = 0
    if after is plan.plan:
        answers = _answers(network, plan.plan, asked)
    else:
        network.count_until(scenario.lost_at)
        answers = _answers(network, plan.plan, asked)
        network.drop()
        late = np.flatnonzero(answers > scenario.lost_at)
        replayed = int((asked[late] < scenario.lost_at).sum())
        # Whatever had no answer is asked again, in the same order.
        again = np.maximum(asked[late], scenario.lost_at + NOTICED)
        answers[late] = math.inf if after is None else _answers(network, after, again)
    return _summary(scenario, asked, answers, replayed, network)


def timeline(plan: PlanFile, items: int) -> tuple[Span, ...]:
    """When devices and lines are busy with the first few items, which come all at once."""
    network = _Network(plan, 0.0, np.random.default_rng(0))
    _answers(network, plan.plan, np.zeros(items))
    return tuple(network.spans)


def _arrivals(scenario: Scenario, random: np.random.Generator) -> Times:
    if scenario.rate is None:
        return np.zeros(scenario.requests)
    return np.cumsum(random.exponential(1 / scenario.rate, scenario.requests))


def _summary(
    scenario: Scenario, asked: Times, answers: Times, replayed: int, network: _Network
) -> Simulation:
    there = np.isfinite(answers)
    done = np.sort(answers[there])
    seconds = float(done[-1] - asked[0]) if len(done) else 0.0
    return Simulation(
        requests=scenario.requests,
        answered=len(done),
        replayed=replayed,
        seconds=seconds,
        throughput=len(done) / seconds if seconds else 0.0,
        latencies=tuple((answers[there] - asked[there]).tolist()),
        loads=tuple(network.loads(seconds)),
    )


# --- what items pass --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compute:
    device: str
    seconds: float


@dataclass(frozen=True)
class _Send:
    sender: str
    receiver: str
    bytes: float


_Step = _Compute | _Send


class _Paths:
    """The ways of items through a plan; each is one or several sequences of steps, and what follows them all.

    Args:
        plan: file.
        entry: the plan in it that is at work.
    """

    def __init__(self, plan: PlanFile, entry: PlanEntry) -> None:
        self._plan = plan
        self._mode = entry.mode
        self._tasks = entry.tasks
        self._owed = np.zeros(len(entry.tasks))
        self._shares = np.array([task.share for task in entry.tasks])

    def next(self) -> list[list[_Step]]:
        """Sequences of steps for one more item, side by side."""
        if self._mode == "replicas":
            # The task that is furthest behind its share.
            self._owed += self._shares
            chosen = int(self._owed.argmax())
            self._owed[chosen] -= 1.0
            return [self._through([self._tasks[chosen]])]
        if self._mode == "ensemble":
            return [self._through([task]) for task in self._tasks]
        return [self._through(self._tasks)]

    def _through(self, tasks: Sequence[TaskEntry]) -> list[_Step]:
        return [*self._steps(tasks)]

    def _steps(self, tasks: Sequence[TaskEntry]) -> Iterator[_Step]:
        places = [self._plan.input, *(task.device for task in tasks), self._plan.answer]
        sizes = [tasks[0].received.bytes, *(task.sent.bytes for task in tasks)]
        for place, (sender, receiver, size) in enumerate(zip(places, places[1:], sizes, strict=False)):
            if place:
                yield _Compute(tasks[place - 1].device, tasks[place - 1].seconds)
            if sender is not None and receiver is not None and sender != receiver:
                yield _Send(sender, receiver, size)


def _answers(network: _Network, entry: PlanEntry, asked: Times) -> Times:
    """When each item is answered."""
    paths = _Paths(network.plan, entry)
    waiting: list[tuple[float, int, int, list[_Step], int]] = []
    branches = np.zeros(len(asked), dtype=int)
    answers = np.zeros(len(asked))
    number = 0
    for item, time in enumerate(asked.tolist()):
        for steps in paths.next():
            heapq.heappush(waiting, (time, number, item, steps, 0))
            branches[item] += 1
            number += 1
    fusing = network.plan.fusion_seconds if entry.mode == "ensemble" else 0.0
    while waiting:
        time, _, item, steps, place = heapq.heappop(waiting)
        if place < len(steps):
            number += 1
            done = network.take(steps[place], time, item)
            heapq.heappush(waiting, (done, number, item, steps, place + 1))
            continue
        branches[item] -= 1
        if branches[item] == 0:
            answers[item] = network.fuse(time, fusing, item)
    return answers


# --- what they wait for -----------------------------------------------------------------------------------


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


class _Network:
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

    def take(self, step: _Step, time: float, item: int) -> float:
        """When a step of an item that could begin at a time is done."""
        varied = self._varied()
        if isinstance(step, _Compute):
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
