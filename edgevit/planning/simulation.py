"""A plan at work, event by event: queues, lines that are shared, times that vary, a device that is lost.

What is computed waits until its device is free, what is sent until the line of either end and the shared
media are; each serves in the order of arrival. A line begins with a transfer when the line before it does, so
that a transfer alone takes as long as the slowest of what it passes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanEntry, PlanFile, TaskEntry
from edgevit.planning.servers import Compute, Load, Network, Span, Step

Times = npt.NDArray[np.float64]

#: Seconds after which a lost device is noticed.
NOTICED = 0.003


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
    network = Network(plan, scenario.jitter, random)
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
    network = Network(plan, 0.0, np.random.default_rng(0))
    _answers(network, plan.plan, np.zeros(items))
    return tuple(network.spans)


def _arrivals(scenario: Scenario, random: np.random.Generator) -> Times:
    if scenario.rate is None:
        return np.zeros(scenario.requests)
    return np.cumsum(random.exponential(1 / scenario.rate, scenario.requests))


def _summary(scenario: Scenario, asked: Times, answers: Times, replayed: int, network: Network) -> Simulation:
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


class _Paths:
    """The ways of items through a plan; each is one or several sequences of steps, and what follows them all.

    Args:
        network: that they pass.
        entry: the plan that is at work.
    """

    def __init__(self, network: Network, entry: PlanEntry) -> None:
        self._network = network
        self._ends = network.plan.input, network.plan.answer
        self._mode = entry.mode
        self._tasks = entry.tasks
        self._owed = np.zeros(len(entry.tasks))
        self._shares = np.array([task.share for task in entry.tasks])

    def next(self) -> list[list[Step]]:
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

    def _through(self, tasks: Sequence[TaskEntry]) -> list[Step]:
        return [*self._steps(tasks)]

    def _steps(self, tasks: Sequence[TaskEntry]) -> Iterator[Step]:
        places = [self._ends[0], *(task.device for task in tasks), self._ends[1]]
        sizes = [tasks[0].received.bytes, *(task.sent.bytes for task in tasks)]
        for place, (sender, receiver, size) in enumerate(zip(places, places[1:], sizes, strict=False)):
            if place:
                yield Compute(tasks[place - 1].device, tasks[place - 1].seconds)
            if sender is not None and receiver is not None and sender != receiver:
                yield from self._network.passes(sender, receiver, size)


def _answers(network: Network, entry: PlanEntry, asked: Times) -> Times:
    """When each item is answered.

    Not more items are under way than keep everything busy: the others wait before the first device, as a
    bounded queue makes them, or what is sent for all would keep lines from what is sent for the first.
    """
    paths, answers = _Paths(network, entry), np.zeros(len(asked))
    fusing = network.plan.fusion_seconds if entry.mode == "ensemble" else 0.0
    waiting: list[tuple[float, int, int, list[Step], int, float]] = []
    branches = np.zeros(len(asked), dtype=int)
    numbers, items = itertools.count(), iter(enumerate(asked.tolist()))

    def admit(time: float) -> None:
        for item, arrival in itertools.islice(items, 1):
            for steps in paths.next():
                branches[item] += 1
                heapq.heappush(waiting, (max(arrival, time), next(numbers), item, steps, 0, 0.0))

    for _ in range(_under_way(entry)):
        admit(0.0)
    while waiting:
        time, _, item, steps, place, there = heapq.heappop(waiting)
        if place < len(steps):
            time, there = network.take(steps[place], time, item, there)
            heapq.heappush(waiting, (time, next(numbers), item, steps, place + 1, there))
            continue
        branches[item] -= 1
        if branches[item] == 0:
            answers[item] = network.fuse(time, fusing, item)
            admit(answers[item])
    return answers


def _under_way(entry: PlanEntry) -> int:
    """Items that are under way at once, at most: twice as many as a steady stream needs, and a few."""
    if not entry.bottleneck_seconds:
        return 2 * len(entry.tasks)
    return 2 * (math.ceil(entry.latency_seconds / entry.bottleneck_seconds) + len(entry.tasks))
