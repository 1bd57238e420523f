"""The best plan of all modes, what it is compared with, and what is done when a device is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgevit.errors import EdgevitError
from edgevit.planning import ensembles, impossible
from edgevit.planning.pipelines import Certificate, Pipeline, Prediction, Stage, best_pipelines, best_single
from edgevit.planning.problem import Ensemble, Objective, Problem, Wire
from edgevit.planning.replicas import best_replicas
from edgevit.planning.routes import ROUNDING
from edgevit.planning.tables import kinds_of

Mode = Literal["single", "replicas", "pipeline", "ensemble"]
#: Of two that are as good, the first: the one that needs less.
MODES: tuple[Mode, ...] = ("single", "replicas", "pipeline", "ensemble")


@dataclass(frozen=True)
class Task:
    """What a device does.

    Attributes:
        host: its name.
        segments: indices of what it runs, of the chain's segments or of the ensemble's parts.
        share: of the items that it sees.
        received: what it gets for one item, as it is sent.
        sent: likewise what it gives.
        seconds: of computing for one item.
        receive_seconds: of getting it, with nothing else on the way.
        send_seconds: likewise of giving it on.
    """

    host: str
    segments: tuple[int, ...]
    share: float
    received: Wire
    sent: Wire
    seconds: float
    receive_seconds: float
    send_seconds: float


@dataclass(frozen=True)
class Plan:
    """Who does what.

    Attributes:
        mode: how the work is divided.
        tasks: in the order of the chain where it is a pipeline.
        prediction: what they are predicted to do together.
        certificate: how good it is among all of its mode.
    """

    mode: Mode
    tasks: tuple[Task, ...]
    prediction: Prediction
    certificate: Certificate

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the devices that do anything."""
        return tuple(task.host for task in self.tasks)


@dataclass(frozen=True)
class Compared:
    """What a mode comes to.

    Attributes:
        mode: which.
        plan: its best; None where there is none.
        reason: why there is none.
    """

    mode: Mode
    plan: Plan | None
    reason: str | None = None


@dataclass(frozen=True)
class Loss:
    """What is done without a device.

    Attributes:
        host: that is lost.
        plan: of the others; None where there is none, or `like` says it.
        reason: why there is none.
        like: a device like it; what is done without that one, with the two exchanged.
    """

    host: str
    plan: Plan | None
    reason: str | None = None
    like: str | None = None


@dataclass(frozen=True)
class Outcome:
    """All that was planned.

    Attributes:
        objective: what was to be low.
        best: the best plan of all modes.
        compared: the best of each mode.
        alternatives: the next best plans of any mode, the best first.
        losses: for each device, the plan of the others.
    """

    objective: Objective
    best: Plan
    compared: tuple[Compared, ...]
    alternatives: tuple[Plan, ...]
    losses: tuple[Loss, ...]

    def value(self, plan: Plan) -> float:
        """What a plan comes to."""
        return plan.prediction.of(self.objective)

    @property
    def gain(self) -> float | None:
        """How many times better the best is than the best single device; None where none can run it alone."""
        single = next((each.plan for each in self.compared if each.mode == "single"), None)
        if single is None or not self.value(self.best):
            return None if single is None else 1.0
        return self.value(single) / self.value(self.best)


@dataclass(frozen=True)
class Work:
    """What is planned: a chain, a class-wise ensemble, or both ways to do the same.

    Attributes:
        problem: the whole model as a chain.
        ensemble: its class-wise parts; None where it has none.
    """

    problem: Problem
    ensemble: Ensemble | None = None

    def without(self, host: str) -> Work | None:
        """The same without a host; None where what it has a role in is lost with it."""
        problem = self.problem.without(host)
        if problem is None or self.ensemble is None:
            return None if problem is None else Work(problem)
        parts = self.ensemble.problem.without(host)
        return None if parts is None else Work(problem, replace(self.ensemble, problem=parts))


def make_plan(
    work: Work, objective: Objective, *, top: int = 1, modes: Sequence[Mode] = MODES, losses: bool = True
) -> Outcome:
    """Plan work in every mode, and choose the best.

    Args:
        work: what is planned.
        objective: what is to be low.
        top: how many plans, the best and its alternatives.
        modes: that may be chosen; replicas are looked at for throughput alone, they better nothing else.
        losses: whether to plan for the loss of each device.

    Raises:
        EdgevitError: naming the constraint that forbids every plan; for energy, where a device does not say
            what it takes.
    """
    found = {mode: _PLANNERS[mode](work, objective, top) for mode in _compared_with(work, objective, modes)}
    compared = tuple(
        Compared(mode, plans[0]) if plans else Compared(mode, None, _reason(mode, work))
        for mode, plans in found.items()
    )
    ranked = _ranked([plan for mode, plans in found.items() for plan in plans if mode in modes], objective)
    if not ranked:
        raise EdgevitError(next(each.reason or "" for each in reversed(compared) if each.mode in modes))
    best = ranked[0]
    losses_of_best = _losses(work, objective, best, modes) if losses else ()
    return Outcome(objective, best, compared, tuple(ranked[1:top]), losses_of_best)


def _compared_with(work: Work, objective: Objective, modes: Sequence[Mode]) -> list[Mode]:
    """The modes that may be chosen and say anything about this work; and one device, for comparison."""
    says = {
        "single": True,
        "replicas": objective == "throughput",
        "pipeline": True,
        "ensemble": work.ensemble is not None,
    }
    return [mode for mode in MODES if says[mode] and (mode in modes or mode == "single")]


def _ranked(plans: Sequence[Plan], objective: Objective) -> list[Plan]:
    """The best first; of those that are as good, the one that needs less; what is the same only once."""
    ordered = sorted(plans, key=lambda plan: plan.prediction.of(objective))
    ranked: list[Plan] = []
    seen: set[tuple[Task, ...]] = set()
    while ordered:
        value = ordered[0].prediction.of(objective)
        alike = [plan for plan in ordered if plan.prediction.of(objective) <= value + ROUNDING * abs(value)]
        ordered = ordered[len(alike) :]
        for plan in sorted(alike, key=lambda plan: (MODES.index(plan.mode), len(plan.tasks))):
            if plan.tasks not in seen:
                ranked.append(plan)
            seen.add(plan.tasks)
    return ranked


def _reason(mode: Mode, work: Work) -> str:
    if mode == "ensemble" and work.ensemble is not None:
        return ensembles.why_impossible(work.ensemble)
    if mode == "pipeline":
        return impossible.why_impossible(work.problem)
    return "memory or pins: no device can run the whole model"


# --- modes ------------------------------------------------------------------------------------------------


def _single(work: Work, objective: Objective, top: int) -> list[Plan]:  # noqa: ARG001
    best = best_single(work.problem, objective)
    return [] if best is None else [_of_pipeline("single", best)]


def _pipelines(work: Work, objective: Objective, top: int) -> list[Plan]:
    return [_of_pipeline("pipeline", each) for each in best_pipelines(work.problem, objective, top)]


def _replicas(work: Work, objective: Objective, top: int) -> list[Plan]:  # noqa: ARG001
    best = best_replicas(work.problem)
    if best is None:
        return []
    tasks = [_task(copy.stages[0], share) for copy, share in zip(best.copies, best.shares, strict=True)]
    return [Plan("replicas", tuple(tasks), best.prediction, best.certificate)]


def _ensemble(work: Work, objective: Objective, top: int) -> list[Plan]:  # noqa: ARG001
    if work.ensemble is None:
        return []
    best = ensembles.best_placement(work.ensemble, objective)
    if best is None:
        return []
    tasks = _tasks_of_parts(work.ensemble, best.hosts)
    return [Plan("ensemble", tasks, best.prediction, best.certificate)]


_PLANNERS: dict[Mode, Callable[[Work, Objective, int], list[Plan]]] = {
    "single": _single,
    "replicas": _replicas,
    "pipeline": _pipelines,
    "ensemble": _ensemble,
}


def _of_pipeline(mode: Mode, pipeline: Pipeline) -> Plan:
    tasks = tuple(_task(stage, 1.0) for stage in pipeline.stages)
    return Plan(mode, tasks, pipeline.prediction, pipeline.certificate)


def _task(stage: Stage, share: float) -> Task:
    return Task(
        host=stage.host,
        segments=tuple(range(stage.first, stage.last + 1)),
        share=share,
        received=stage.received,
        sent=stage.sent,
        seconds=stage.seconds,
        receive_seconds=stage.receive_seconds,
        send_seconds=stage.send_seconds,
    )


def _tasks_of_parts(ensemble: Ensemble, hosts: Sequence[str]) -> tuple[Task, ...]:
    asked, answered = ensembles.transfers_of(ensemble, hosts)
    computing = ensembles.computing_of(ensemble, hosts)
    tasks = []
    for host in ensemble.problem.hosts:
        parts = tuple(part for part, name in enumerate(hosts) if name == host.name)
        if parts:
            got = [transfer for transfer in asked if transfer.receiver == host.name]
            gave = [transfer for transfer in answered if transfer.sender == host.name]
            tasks.append(
                Task(
                    host=host.name,
                    segments=parts,
                    share=1.0,
                    received=Wire("fp32", ensemble.asked_bytes),
                    sent=Wire("fp32", sum(ensemble.sent_bytes[part] for part in parts)),
                    seconds=computing[host.name],
                    receive_seconds=ensembles.arrival(ensemble.problem, got),
                    send_seconds=ensembles.arrival(ensemble.problem, gave),
                )
            )
    return tuple(tasks)


# --- losses -----------------------------------------------------------------------------------------------


def _losses(work: Work, objective: Objective, best: Plan, modes: Sequence[Mode]) -> tuple[Loss, ...]:
    """For each host the plan of the others; hosts that are alike are planned for once."""
    losses: dict[str, Loss] = {}
    busy = {*best.hosts}
    for kind in kinds_of(work.problem):
        first: Loss | None = None
        for host in (host.name for host in kind.hosts):
            if host not in busy and work.without(host) is not None:
                losses[host] = Loss(host, best)
            elif first is None:
                first = losses[host] = _without(work, objective, host, modes)
            elif first.plan is None:
                losses[host] = Loss(host, None, first.reason)
            else:
                losses[host] = Loss(host, None, like=first.host)
    return tuple(losses[host.name] for host in work.problem.hosts)


def _needed_for(problem: Problem, host: str) -> str:
    """What nothing can be done without."""
    if host == problem.source:
        return "has the images"
    if host == problem.sink:
        return "wants the answers"
    if any(pin.host == host for pin in problem.pins):
        return "has segments that may not leave it"
    return "is the only device"


def _without(work: Work, objective: Objective, host: str, modes: Sequence[Mode]) -> Loss:
    left = work.without(host)
    if left is None:
        return Loss(host, None, f"{host} {_needed_for(work.problem, host)}")
    try:
        return Loss(host, make_plan(left, objective, modes=modes, losses=False).best)
    except EdgevitError as error:
        return Loss(host, None, str(error))
