"""What a plan out of a run changes, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevit.cli import output

if TYPE_CHECKING:
    from edgevit.planning.plan_file import PlanFile, TaskEntry
    from edgevit.planning.run_file import MeasuredTask, RunFile


def print_changes(plan: PlanFile, path: Path) -> None:
    """For each device what it did, planned and measured, and what it does now.

    Args:
        plan: made from what was measured.
        path: of the run file.
    """
    from edgevit.planning.run_file import RunFile

    run = RunFile.read(path).value
    click.echo(f"{path}: {run.n} items of plan {run.plan_sha256[:12]}")
    rows = [["device", "ran", "planned", "measured", "", "now", "planned"], *_rows(plan, run)]
    output.print_table(rows)
    if run.lines:
        lines = [f"{line.device} {output.megabytes(int(line.bytes_per_second))}/s" for line in run.lines]
        click.echo(f"lines measured: {', '.join(lines)}")
    click.echo(_summary(plan, run))


def _rows(plan: PlanFile, run: RunFile) -> list[list[str]]:
    now = {task.device: task for task in plan.plan.tasks}
    rows = [_row(task, now.pop(task.planned.device, None)) for task in run.tasks if task.part is None]
    parts: dict[str, list[MeasuredTask]] = {}
    for task in run.tasks:
        if task.part is not None:
            parts.setdefault(task.planned.device, []).append(task)
    rows += [_row_of_parts(tasks, now.pop(device, None)) for device, tasks in parts.items()]
    return rows + [[device, "nothing", "", "", "", *_now(task)] for device, task in now.items()]


def _row(task: MeasuredTask, now: TaskEntry | None) -> list[str]:
    return [
        task.planned.device,
        work(task.planned),
        *_compared(task.planned.seconds, task.seconds),
        *_now(now),
    ]


def _row_of_parts(tasks: Sequence[MeasuredTask], now: TaskEntry | None) -> list[str]:
    planned = tasks[0].planned
    return [
        planned.device,
        work(planned),
        *_compared(planned.seconds, sum(task.seconds for task in tasks)),
        *_now(now),
    ]


def _compared(planned: float, measured: float) -> list[str]:
    from edgevit.cli.plan import seconds

    ratio = f"x {measured / planned:.3g}" if planned else ""
    return [seconds(planned), seconds(measured), ratio]


def _now(task: TaskEntry | None) -> list[str]:
    from edgevit.cli.plan import seconds

    return ["nothing", ""] if task is None else [work(task), seconds(task.seconds)]


def work(task: TaskEntry) -> str:
    """What a task is, in words."""
    return f"segments {task.first} to {task.last}" if task.parts is None else ", ".join(task.parts)


def _summary(plan: PlanFile, run: RunFile) -> str:
    ran = f"planned {1 / run.planned_seconds:.4g} items/s, " if run.planned_seconds else ""
    new = plan.plan.bottleneck_seconds
    now = f"planned {1 / new:.4g} items/s" if new else "nothing limits it"
    return f"{run.mode} that ran: {ran}measured {run.n / run.seconds:.4g}; {plan.plan.mode} now: {now}"
