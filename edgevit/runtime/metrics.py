"""What a service counts, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from edgevit.runtime.messages import Status, TaskStatus

# Of each task: name, what it is, and its value.
_TASK: dict[str, tuple[str, Callable[[TaskStatus], float]]] = {
    "edgevit_task_runs_total": ("requests that a task ran", lambda task: task.runs),
    "edgevit_task_seconds_total": ("seconds of computing", lambda task: task.seconds),
    "edgevit_task_waited_seconds_total": (
        "seconds that requests spent in its queue",
        lambda task: task.waited,
    ),
    "edgevit_task_received_bytes_total": ("bytes that it got", lambda task: task.received),
    "edgevit_task_sent_bytes_total": ("bytes that it sent", lambda task: task.sent),
    "edgevit_task_refused_total": ("frames that were altered, late or foreign", lambda task: task.refused),
    "edgevit_task_queue": ("requests that wait or are being run", lambda task: len(task.held)),
}


def write_metrics(
    values: Mapping[str, float], outcomes: Mapping[str, int], statuses: Mapping[str, Status | None]
) -> str:
    """All metrics as text.

    Args:
        values: by name, without labels.
        outcomes: how many requests ended how.
        statuses: what each device's tasks did; None for one that does not say.
    """
    lines = [f"{name} {value:g}" for name, value in values.items()]
    lines += [f'edgevit_requests_total{{outcome="{name}"}} {count}' for name, count in outcomes.items()]
    lines += [
        f'edgevit_device_answers{{device="{name}"}} {int(status is not None)}'
        for name, status in statuses.items()
    ]
    tasks = list(_tasks(statuses))
    for name, (words, value) in _TASK.items():
        lines.append(f"# HELP {name} {words}")
        lines += [f'{name}{{device="{device}",task="{task.key}"}} {value(task):g}' for device, task in tasks]
    return "\n".join(lines) + "\n"


def _tasks(statuses: Mapping[str, Status | None]) -> Iterator[tuple[str, TaskStatus]]:
    for device, status in statuses.items():
        for task in () if status is None else status.tasks:
            yield device, task
