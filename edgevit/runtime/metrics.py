"""What a service counts, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgevit.errors import EdgevitError
from edgevit.runtime.messages import Status, TaskStatus

Labels = Mapping[str, str]

# Of each task: name, what it is, and its value.
_TASK: dict[str, tuple[str, Callable[[TaskStatus], float]]] = {
    "edgevit_task_runs_total": ("requests that a task ran", lambda task: task.runs),
    "edgevit_task_seconds_total": ("seconds of computing", lambda task: task.seconds),
    "edgevit_task_p50_seconds": ("seconds of computing, the median of the last runs", lambda task: task.p50),
    "edgevit_task_waited_seconds_total": (
        "seconds that requests spent in its queue",
        lambda task: task.waited,
    ),
    "edgevit_task_received_bytes_total": ("bytes that it got", lambda task: task.received),
    "edgevit_task_sent_bytes_total": ("bytes that it sent", lambda task: task.sent),
    "edgevit_task_refused_total": ("frames that were altered, late or foreign", lambda task: task.refused),
    "edgevit_task_queue": ("requests that wait or are being run", lambda task: len(task.held)),
}
_PLANNED = "edgevit_task_planned_seconds"


@dataclass(frozen=True)
class Sample:
    """A value at one time.

    Attributes:
        name: of the metric.
        labels: that tell it apart from others of the name.
        value: a number.
    """

    name: str
    labels: Labels
    value: float


def samples_of(statuses: Mapping[str, Status | None], planned: Mapping[str, float | None]) -> list[Sample]:
    """What devices say of their tasks.

    Args:
        statuses: by device; None for one that does not say.
        planned: seconds of computing by task; None where the plan does not say them apart.
    """
    samples = [
        Sample("edgevit_device_answers", {"device": name}, float(status is not None))
        for name, status in statuses.items()
    ]
    tasks = list(_tasks(statuses))
    for name, (_, value) in _TASK.items():
        samples += [Sample(name, _of_task(device, task), float(value(task))) for device, task in tasks]
    for device, task in tasks:
        seconds = planned.get(task.key)
        if seconds is not None:
            samples.append(Sample(_PLANNED, _of_task(device, task), seconds))
    return samples


def _tasks(statuses: Mapping[str, Status | None]) -> Iterator[tuple[str, TaskStatus]]:
    for device, status in statuses.items():
        for task in () if status is None else status.tasks:
            yield device, task


def _of_task(device: str, task: TaskStatus) -> Labels:
    return {"device": device, "task": task.key}


def write_metrics(samples: Iterable[Sample]) -> str:
    """Samples as text, those of one name together."""
    names: dict[str, list[Sample]] = {}
    for sample in samples:
        names.setdefault(sample.name, []).append(sample)
    lines = []
    for name, each in names.items():
        if name in _TASK:
            lines.append(f"# HELP {name} {_TASK[name][0]}")
        lines += [f"{name}{_written(sample.labels)} {sample.value!r}" for sample in each]
    return "\n".join(lines) + "\n"


_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


def _written(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = [
        f'{name}="{"".join(_ESCAPES.get(letter, letter) for letter in value)}"'
        for name, value in labels.items()
    ]
    return f"{{{','.join(pairs)}}}"


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_PAIR = re.compile(rf'({_NAME})="((?:[^"\\\n]|\\[\\"n])*)"')
_LINE = re.compile(
    rf"({_NAME})(?:\{{(?:({_PAIR.pattern}(?:,{_PAIR.pattern})*),?)?\}})?[ \t]+(\S+)(?:[ \t]+-?\d+)?"
)
_UNESCAPES = {written: letter for letter, written in _ESCAPES.items()}


def read_metrics(text: str) -> list[Sample]:
    """Samples of a text; comments are passed over.

    Raises:
        EdgevitError: naming the line that is no sample.
    """
    lines = enumerate(text.split("\n"), start=1)
    return [_sample(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _sample(number: int, line: str) -> Sample:
    found = _LINE.fullmatch(line.strip())
    value = None if found is None else _number(found[found.re.groups])
    if found is None or value is None:
        raise EdgevitError(f"line {number}: {line[:60]!r} is no metric")
    labels = {name: _read(text) for name, text in _PAIR.findall(found[2] or "")}
    return Sample(found[1], labels, value)


def _number(text: str) -> float | None:
    if "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _read(text: str) -> str:
    return re.sub(r"\\[\\\"n]", lambda found: _UNESCAPES[found[0]], text)
