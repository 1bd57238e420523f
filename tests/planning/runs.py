"""Runs that were never run: what a run file says, made by hand."""

from __future__ import annotations

from edgevit.planning.plan_file import TaskEntry, WireEntry
from edgevit.planning.run_file import MeasuredTask, RunFile

SHA = "0" * 64


def task(device: str, first: int, last: int, *, sent: str = "fp32") -> TaskEntry:
    return TaskEntry(
        device=device, format="onnx", precision="fp32", first=first, last=last, seconds=1.0,
        received=WireEntry(precision="fp32", bytes=8), sent=WireEntry(precision=sent, bytes=8),
        receive_seconds=0, send_seconds=0,
    )  # fmt: skip


def measured(planned: TaskEntry, seconds: float, runs: int = 10, part: str | None = None) -> MeasuredTask:
    return MeasuredTask(
        planned=planned, part=part, runs=runs, seconds=seconds, p50_seconds=seconds, waited_seconds=0,
        received_bytes=8, sent_bytes=8,
    )  # fmt: skip


def run_file(tasks, model_sha256: str = SHA, lines=()) -> RunFile:
    return RunFile(
        edgevit="0", plan="plan.yaml", plan_sha256=SHA, model="tiny.pt2", model_sha256=model_sha256,
        mode="pipeline", n=10, seconds=1.0, planned_seconds=0.1, p50_seconds=0.1, p90_seconds=0.1,
        p99_seconds=0.1, planned_latency_seconds=0.1, tasks=tuple(tasks), lines=tuple(lines),
    )  # fmt: skip
