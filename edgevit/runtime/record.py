"""A run written down: what the plan was, and what was measured of it."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.extras import version_of
from edgevit.files import sha256_of
from edgevit.planning.run_file import MeasuredLine, MeasuredTask, RunFile
from edgevit.runtime.coordinator import Coordinator
from edgevit.runtime.planned import PlannedStep, planned_steps
from edgevit.runtime.running import RunResult, StepReport


def record(coordinator: Coordinator, result: RunResult, plan: Path) -> RunFile:
    """What was measured, with the lines, which are measured now.

    Args:
        coordinator: the plan at work.
        result: of a run.
        plan: its file.

    Raises:
        EdgevitError: when no plan is running any more.
    """
    orders = coordinator.running
    if orders is None:
        raise EdgevitError("nothing can be written of a run whose devices are lost at its end")
    planned = planned_steps(orders.entry)
    lines = coordinator.lines()
    return RunFile(
        edgevit=version_of("edgevit") or "",
        plan=str(plan),
        plan_sha256=sha256_of(plan),
        model=str(coordinator.model.origin),
        model_sha256=coordinator.model.sha256,
        items=coordinator.plan.items,
        mode=orders.entry.mode,
        n=result.n,
        seconds=result.seconds,
        planned_seconds=orders.entry.bottleneck_seconds,
        p50_seconds=result.percentile(50),
        p90_seconds=result.percentile(90),
        p99_seconds=result.percentile(99),
        planned_latency_seconds=orders.entry.latency_seconds,
        degraded=result.degraded,
        repeated=result.repeated,
        switches=result.switches,
        tasks=tuple(_task(step, planned[step.task]) for step in result.steps if step.task in planned),
        lines=tuple(
            MeasuredLine(device=name, bytes_per_second=speed)
            for name, speed in lines.items()
            if speed is not None
        ),
    )


def _task(step: StepReport, planned: PlannedStep) -> MeasuredTask:
    return MeasuredTask(
        planned=planned.task,
        part=planned.part,
        runs=step.runs,
        seconds=step.seconds,
        p50_seconds=step.p50,
        waited_seconds=step.waited,
        received_bytes=step.received,
        sent_bytes=step.sent,
    )
