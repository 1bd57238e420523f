"""The ways to divide work among devices, each as a plan: one device, replicas, a pipeline, an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgevit.planning import ensembles
from edgevit.planning.pipelines import Certificate, Pipeline, Prediction, Stage, best_pipelines, best_single
from edgevit.planning.problem import Ensemble, Objective, Problem, Wire
from edgevit.planning.replicas import best_replicas

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


#: The best few plans of each mode: of some work, for an objective, at most so many.
PLANNERS: dict[Mode, Callable[[Work, Objective, int], list[Plan]]] = {
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
