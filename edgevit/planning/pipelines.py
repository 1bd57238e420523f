"""Pipelines: the best few for an objective, and what each is predicted to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgevit.errors import EdgevitError
from edgevit.planning.bottleneck import least_bottleneck, least_bottleneck_of_shared
from edgevit.planning.problem import Host, Objective, Problem, Wire, unknown_energy
from edgevit.planning.routes import ROUNDING, Route, Solver, Step, Tables, best_few
from edgevit.planning.shortest import least_sum
from edgevit.planning.tables import Kind, Node, StepCosts, transfer_seconds


@dataclass(frozen=True)
class Stage:
    """What one host does.

    Attributes:
        host: its name.
        first: index of its first segment.
        last: of its last.
        received: what it gets, as it is sent.
        sent: likewise what it gives.
        seconds: of computing, conversions of what it receives and sends among it.
        receive_seconds: of getting it from the host before, with nothing else on the way.
        send_seconds: likewise of giving it to the next.
    """

    host: str
    first: int
    last: int
    received: Wire
    sent: Wire
    seconds: float
    receive_seconds: float
    send_seconds: float


@dataclass(frozen=True)
class Prediction:
    """What a plan is predicted to do.

    Attributes:
        bottleneck: seconds by which answers follow one another when there is always something to do.
        latency: seconds from an item to its answer with nothing else on the way.
        joules: for one item, of the hosts that take part; None where one of them does not say.
    """

    bottleneck: float
    latency: float
    joules: float | None

    def of(self, objective: Objective) -> float:
        """The value of an objective: the lower, the better.

        Raises:
            EdgevitError: when it is not known.
        """
        if objective == "energy":
            if self.joules is None:
                raise EdgevitError("energy: it is not known for every device of the plan")
            return self.joules
        return self.latency if objective == "latency" else self.bottleneck


@dataclass(frozen=True)
class Certificate:
    """How good a plan is among all of its mode.

    Attributes:
        value: what it costs.
        bound: what no plan of the mode can cost less than.
    """

    value: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether it was proven the best."""
        return self.value <= self.bound + ROUNDING * abs(self.bound)

    @property
    def gap(self) -> float:
        """By which share of its value a better one could at most be better."""
        return 0.0 if self.optimal or self.value == 0 else (self.value - self.bound) / self.value


@dataclass(frozen=True)
class Pipeline:
    """Stages one behind the other.

    Attributes:
        stages: in the order of the chain.
        prediction: what they are predicted to do together.
        certificate: of the objective that was asked for.
    """

    stages: tuple[Stage, ...]
    prediction: Prediction
    certificate: Certificate


def best_pipelines(problem: Problem, objective: Objective, count: int = 1) -> list[Pipeline]:
    """The best pipelines, the best first; one of a single stage is a pipeline too.

    No host has more than one stage. Hosts that are alike are not told apart.

    Args:
        problem: what is planned.
        objective: what is to be low: seconds of one item, seconds between items, or joules.
        count: how many, at most.

    Returns:
        Fewer than `count` where there are no more, none where none is possible.

    Raises:
        EdgevitError: for energy, where a host does not say what it takes.
    """
    costs = StepCosts(problem)
    runs = [best_few(tables, solve, count) for tables, solve in _searches(costs, problem, objective)]
    if not all(runs):
        return []
    # Each search looks at one shared medium: what one of them finds impossible to better, all do.
    bound = max(routes[0].bound for routes in runs)
    found = {route.steps: route for routes in runs for route in routes}
    pipelines = [_pipeline(costs, route, objective, bound) for route in found.values()]
    return sorted(pipelines, key=lambda pipeline: pipeline.certificate.value)[:count]


def _searches(costs: StepCosts, problem: Problem, objective: Objective) -> list[tuple[Tables, Solver]]:
    if objective == "latency":
        return [(costs.latency(), least_sum)]
    if objective == "energy":
        return [(costs.energy(), least_sum)]
    used = {host.medium for host in problem.hosts}
    media = [medium for medium in problem.media if medium.name in used]
    if not media:
        return [(costs.throughput(), least_bottleneck)]
    return [(costs.throughput(medium), least_bottleneck_of_shared) for medium in media]


def _pipeline(costs: StepCosts, route: Route, objective: Objective, bound: float) -> Pipeline:
    hosts = _named(costs, route.steps)
    stages = tuple(stages_of(costs.problem, hosts, [_ends(costs, step) for step in route.steps]))
    prediction = predict(costs.problem, stages)
    value = prediction.of(objective)
    return Pipeline(stages, prediction, Certificate(value, min(bound, value)))


def _ends(costs: StepCosts, step: Step) -> tuple[Node, Node]:
    return costs.nodes[step.start], costs.nodes[step.end]


def _named(costs: StepCosts, steps: Sequence[Step]) -> list[Host]:
    """A host for each step: of a kind, one after the other."""
    left = [iter(kind.hosts) for kind in costs.kinds]
    return [next(left[step.kind]) for step in steps]


def stages_of(problem: Problem, hosts: Sequence[Host], ends: Sequence[tuple[Node, Node]]) -> list[Stage]:
    """Stages with their times.

    Args:
        problem: what is planned.
        hosts: of the stages, in the order of the chain.
        ends: between which nodes each stage lies.
    """
    source = None if problem.source is None else problem.host(problem.source)
    sink = None if problem.sink is None else problem.host(problem.sink)
    chain = [source, *hosts, sink]
    sizes = [ends[0][0].wire.bytes, *(end.wire.bytes for _, end in ends)]
    moves = [_move(problem, *pair, size) for pair, size in zip(itertools.pairwise(chain), sizes, strict=True)]
    return [
        Stage(
            host=host.name,
            first=start.place,
            last=end.place - 1,
            received=start.wire,
            sent=end.wire,
            seconds=_compute(host, start, end),
            receive_seconds=before,
            send_seconds=after,
        )
        for host, (start, end), (before, after) in zip(hosts, ends, itertools.pairwise(moves), strict=True)
    ]


def _compute(host: Host, start: Node, end: Node) -> float:
    converting = 0.0 if host.conversion is None else (start.wide_bytes + end.wide_bytes) / host.conversion
    return sum(host.seconds[start.place : end.place]) + converting


def _move(problem: Problem, sender: Host | None, receiver: Host | None, size: float) -> float:
    if sender is None or receiver is None or sender.name == receiver.name:
        return 0.0
    return float(transfer_seconds(problem, sender, receiver, size))


@dataclass(frozen=True)
class Transfer:
    """What is sent from one host to another for one item.

    Attributes:
        sender: its name.
        receiver: likewise.
        bytes: that are sent.
    """

    sender: str
    receiver: str
    bytes: float


def transfers_of(problem: Problem, stages: Sequence[Stage]) -> list[Transfer]:
    """All transfers for one item, in their order."""
    chain = [problem.source, *(stage.host for stage in stages), problem.sink]
    sizes = [stages[0].received.bytes, *(stage.sent.bytes for stage in stages)]
    return [
        Transfer(sender, receiver, size)
        for (sender, receiver), size in zip(itertools.pairwise(chain), sizes, strict=True)
        if sender is not None and receiver is not None and sender != receiver
    ]


def predict(problem: Problem, stages: Sequence[Stage]) -> Prediction:
    """What stages are predicted to do together."""
    transfers = transfers_of(problem, stages)
    busiest = max([*(stage.seconds for stage in stages), *busy_seconds(problem, transfers).values()])
    latency = sum(stage.seconds + stage.receive_seconds for stage in stages) + stages[-1].send_seconds
    return Prediction(busiest, latency, _joules(problem, stages, transfers))


def busy_seconds(problem: Problem, transfers: Sequence[Transfer]) -> dict[tuple[str, str], float]:
    """How long lines and shared media are busy for one item, by what it is and of whom: ("out", "pi-1")."""
    busy: dict[tuple[str, str], float] = {}
    shared = {medium.name: medium for medium in problem.media}
    for transfer in transfers:
        sender, receiver = problem.host(transfer.sender), problem.host(transfer.receiver)
        lines = [("out", sender.name, sender.bandwidth), ("in", receiver.name, receiver.bandwidth)]
        media = {host.medium for host in (sender, receiver) if host.medium is not None}
        lines += [("shared", name, shared[name].bandwidth) for name in sorted(media)]
        for what, name, bandwidth in lines:
            busy[what, name] = busy.get((what, name), 0.0) + transfer.bytes / bandwidth
    return busy


def _joules(problem: Problem, stages: Sequence[Stage], transfers: Sequence[Transfer]) -> float | None:
    total = 0.0
    for stage in stages:
        joules = problem.host(stage.host).joules
        if joules is None:
            return None
        total += sum(joules[stage.first : stage.last + 1])
    for transfer in transfers:
        both = problem.host(transfer.sender), problem.host(transfer.receiver)
        total += transfer.bytes * math.fsum(host.joules_per_byte for host in both)
    return total


def singles(problem: Problem) -> list[tuple[Kind, Pipeline]]:
    """Of each kind of host, the pipeline of one that runs everything; none where it cannot."""
    costs = StepCosts(problem)
    ends = costs.nodes[0], costs.nodes[-1]
    found = []
    for place, kind in enumerate(costs.kinds):
        if costs.allowed[place, 0, -1]:
            stages = tuple(stages_of(problem, [kind.like], [ends]))
            prediction = predict(problem, stages)
            value = prediction.latency
            found.append((kind, Pipeline(stages, prediction, Certificate(value, value))))
    return found


def best_single(problem: Problem, objective: Objective) -> Pipeline | None:
    """The best host to run everything; None where none has room for it, or a pin forbids it.

    Raises:
        EdgevitError: for energy, where a host does not say what it takes.
    """
    if objective == "energy":
        for host in problem.hosts:
            if host.joules is None:
                raise unknown_energy(host.name)
    found = [(pipeline.prediction.of(objective), pipeline) for _, pipeline in singles(problem)]
    if not found:
        return None
    value, best = min(found, key=lambda each: each[0])
    return replace(best, certificate=Certificate(value, value))
