"""A plan file out of what was planned."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.extras import version_of
from edgevit.planning.cluster import unlimited
from edgevit.planning.modes import Mode, Plan, Task
from edgevit.planning.plan_file import (
    ComparedEntry,
    HostEntry,
    LossEntry,
    MediumEntry,
    PlanEntry,
    PlanFile,
    TaskEntry,
    WireEntry,
)
from edgevit.planning.planner import Compared, Loss, Outcome
from edgevit.planning.problem import Problem
from edgevit.profiles.schema import Format


class Artefacts:
    """What each device runs, and how the pieces are called.

    Args:
        of: format and precision, by device.
        parts: names of sub-models; None for segments of a chain.
    """

    def __init__(self, of: dict[str, tuple[Format, str]], parts: Sequence[str] = ()) -> None:
        self._of = of
        self._parts = parts

    def task(self, task: Task, mode: Mode) -> TaskEntry:
        """A task as it is written."""
        format_, precision = self._of[task.host]
        in_a_row = mode != "ensemble"
        return TaskEntry(
            device=task.host,
            format=format_,
            precision=precision,
            first=task.segments[0] if in_a_row else None,
            last=task.segments[-1] if in_a_row else None,
            parts=None if in_a_row else tuple(self._parts[part] for part in task.segments),
            share=task.share,
            received=WireEntry(precision=task.received.precision, bytes=task.received.bytes),
            sent=WireEntry(precision=task.sent.precision, bytes=task.sent.bytes),
            seconds=task.seconds,
            receive_seconds=task.receive_seconds,
            send_seconds=task.send_seconds,
        )

    def plan(self, plan: Plan) -> PlanEntry:
        """A plan as it is written."""
        return PlanEntry(
            mode=plan.mode,
            optimal=plan.certificate.optimal,
            value=plan.certificate.value,
            bound=plan.certificate.bound,
            bottleneck_seconds=plan.prediction.bottleneck,
            latency_seconds=plan.prediction.latency,
            joules=plan.prediction.joules,
            tasks=tuple(self.task(task, plan.mode) for task in plan.tasks),
        )


def document(
    outcome: Outcome,
    problem: Problem,
    artefacts: Artefacts,
    *,
    model: str,
    items: int = 1,
    notes: Sequence[str] = (),
    fusion_seconds: float = 0.0,
) -> PlanFile:
    """A plan file of what was planned.

    Args:
        outcome: what was planned.
        problem: for which problem.
        artefacts: what devices run.
        model: its file or name.
        items: images that travel together.
        notes: what was not measured.
        fusion_seconds: of an ensemble.
    """
    return PlanFile(
        edgevit=version_of("edgevit") or "",
        model=model,
        items=items,
        objective=outcome.objective,
        verdict=verdict(outcome),
        notes=tuple(notes),
        input=problem.source,
        answer=problem.sink,
        cuts=() if outcome.best.mode == "ensemble" else tuple(cut.name for cut in problem.chain.cuts),
        fusion_seconds=fusion_seconds,
        devices=tuple(
            HostEntry(
                name=host.name,
                bytes_per_second=unlimited(host.bandwidth),
                latency_seconds=host.latency,
                network=host.medium,
            )
            for host in problem.hosts
        ),
        networks=tuple(MediumEntry(name=m.name, bytes_per_second=m.bandwidth) for m in problem.media),
        plan=artefacts.plan(outcome.best),
        comparison=tuple(_compared(each) for each in outcome.compared),
        alternatives=tuple(artefacts.plan(plan) for plan in outcome.alternatives),
        losses=tuple(_loss(each, outcome.best, artefacts) for each in outcome.losses),
    )


def _compared(compared: Compared) -> ComparedEntry:
    if compared.plan is None:
        return ComparedEntry(mode=compared.mode, reason=compared.reason)
    prediction = compared.plan.prediction
    return ComparedEntry(
        mode=compared.mode,
        bottleneck_seconds=prediction.bottleneck,
        latency_seconds=prediction.latency,
        joules=prediction.joules,
        devices=len(compared.plan.tasks),
        optimal=compared.plan.certificate.optimal,
    )


def _loss(loss: Loss, best: Plan, artefacts: Artefacts) -> LossEntry:
    if loss.plan is best:
        return LossEntry(device=loss.host, unchanged=True)
    if loss.like is not None:
        return LossEntry(device=loss.host, like=loss.like)
    plan = None if loss.plan is None else artefacts.plan(loss.plan)
    return LossEntry(device=loss.host, plan=plan, reason=loss.reason)


def verdict(outcome: Outcome) -> str:
    """Whether it pays to divide the work, in a sentence."""
    best, gain = outcome.best, outcome.gain
    if len(best.tasks) == 1:
        return f"dividing the work does not pay: {best.tasks[0].host} alone is as good as any plan"
    if gain is None:
        return f"{len(best.tasks)} devices together run what none of them can run alone"
    words = {"latency": "as fast as", "throughput": "as many images as", "energy": "less energy than"}
    return (
        f"{len(best.tasks)} devices ({best.mode}): {gain:.3g} times {words[outcome.objective]} the best "
        "single device"
    )
