"""A service as its metrics show it: what it does now, out of two looks at what it counts."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgevit.errors import EdgevitError
from edgevit.runtime.metrics import Sample, read_metrics

_SECONDS = 10.0
_MOST_BYTES = 16 * 2**20

OUTCOMES = ("answered", "degraded", "busy", "failed")


def metrics_url(target: str) -> str:
    """Address of the metrics of a service.

    Args:
        target: a port of this machine, HOST:PORT, or the address of the service.

    Raises:
        EdgevitError: when it is none of these.

    >>> metrics_url("8000"), metrics_url("edge:8000"), metrics_url("https://edge/")
    ('http://127.0.0.1:8000/metrics', 'http://edge:8000/metrics', 'https://edge/metrics')
    """
    if target.isascii() and target.isdigit():
        target = f"127.0.0.1:{target}"
    url = urlsplit(target if "://" in target else f"http://{target}")
    try:
        valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if (
        not valid
        or url.path not in {"", "/", "/metrics"}
        or url.query
        or not target.isprintable()
        or " " in target
    ):
        raise EdgevitError(f"{target}: write a port, HOST:PORT or http://HOST:PORT of `edgevit serve --http`")
    return f"{url.scheme}://{url.netloc}/metrics"


@dataclass(frozen=True)
class Look:
    """What a service counted, when.

    Attributes:
        at: seconds of a clock that only goes forward.
        samples: of all metrics.
    """

    at: float
    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float | None:
        """Of a metric; None where there is none."""
        return next((each.value for each in self._named(name) if each.labels == labels), None)

    def labels(self, name: str) -> Mapping[str, str]:
        """Of the first of a name; none where there is none."""
        return next((each.labels for each in self._named(name)), {})

    def all_labels(self, name: str) -> list[Mapping[str, str]]:
        """Of all of a name."""
        return [each.labels for each in self._named(name)]

    def _named(self, name: str) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.name == name)


def look(url: str) -> Look:
    """Read the metrics of a service.

    Args:
        url: as `metrics_url` gives it.

    Raises:
        EdgevitError: when nothing answers there, or something else than a service of edgevit does.
    """
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - http or https
            data = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        raise _stranger(url, f"it answers {error.code}") from error
    except http.client.HTTPException as error:
        raise _stranger(url, "it does not speak HTTP") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        words = getattr(reason, "strerror", None) or str(reason)
        raise EdgevitError(f"{url}: nothing answers ({words}); is `edgevit serve` running there?") from error
    try:
        samples = tuple(read_metrics(data.decode("utf-8")))
    except (UnicodeDecodeError, EdgevitError) as error:
        raise _stranger(url, "what it answers are no metrics") from error
    found = Look(time.monotonic(), samples)
    if not found.labels("edgevit_model_info"):
        raise _stranger(url, "its metrics are of something else")
    return found


def _stranger(url: str, why: str) -> EdgevitError:
    return EdgevitError(f"{url}: is no service of `edgevit serve`: {why}")


@dataclass(frozen=True)
class TaskView:
    """A task of a device.

    Attributes:
        device: its name.
        task: what it is called there.
        runs_per_second: requests that it ran, lately.
        now: seconds of computing for one of these, on average; None where there were none.
        p50: seconds of computing, the median of the last runs.
        planned: seconds of computing; None where the plan does not say it apart.
        waits: seconds in its queue of the requests that it ran lately; None where there were none.
        queue: requests that wait there, or are being run.
        received_per_second: bytes.
        sent_per_second: bytes.
        refused: frames that were altered, late or foreign, ever.
    """

    device: str
    task: str
    runs_per_second: float
    now: float | None
    p50: float | None
    planned: float | None
    waits: float | None
    queue: int
    received_per_second: float
    sent_per_second: float
    refused: int


@dataclass(frozen=True)
class ServiceView:
    """A service.

    Attributes:
        model: what is served.
        ready: whether a plan is running.
        mode: of the plan; None where none is.
        devices: that take part in it.
        best: whether it is the best of its file, no device lost.
        requests_per_second: that were answered lately, of clients.
        planned_items_per_second: that the plan allows; None where nothing limits them.
        p50_seconds: of the last requests; None before the first.
        p99_seconds: likewise.
        planned_seconds: of one with nothing else on the way.
        unanswered: items on their way.
        waiting: items that wait for a place, or are on their way.
        outcomes: how many requests ended how, ever.
        plan_changes: how often another plan took over.
        silent: devices that do not answer.
        tasks: of the others.
    """

    model: str
    ready: bool
    mode: str | None
    devices: tuple[str, ...]
    best: bool
    requests_per_second: float
    planned_items_per_second: float | None
    p50_seconds: float | None
    p99_seconds: float | None
    planned_seconds: float | None
    unanswered: int
    waiting: int
    outcomes: Mapping[str, int]
    plan_changes: int
    silent: tuple[str, ...]
    tasks: tuple[TaskView, ...]


def view(before: Look, after: Look) -> ServiceView:
    """What a service did between two looks."""
    plan = after.labels("edgevit_plan_info")
    rate = _Rates(before, after)
    asked = after.all_labels("edgevit_device_answers")
    silent = [each["device"] for each in asked if not after.value("edgevit_device_answers", **each)]
    outcomes = {name: int(after.value("edgevit_requests_total", outcome=name) or 0) for name in OUTCOMES}
    return ServiceView(
        model=after.labels("edgevit_model_info").get("model", ""),
        ready=bool(after.value("edgevit_ready")),
        mode=plan.get("mode"),
        devices=tuple(filter(None, plan.get("devices", "").split(","))),
        best=plan.get("best") == "yes",
        requests_per_second=sum(
            rate.of("edgevit_requests_total", outcome=name) for name in ("answered", "degraded")
        ),
        planned_items_per_second=after.value("edgevit_planned_items_per_second"),
        p50_seconds=after.value("edgevit_request_seconds", quantile="0.5"),
        p99_seconds=after.value("edgevit_request_seconds", quantile="0.99"),
        planned_seconds=after.value("edgevit_planned_latency_seconds"),
        unanswered=int(after.value("edgevit_unanswered_items") or 0),
        waiting=int(after.value("edgevit_waiting_items") or 0),
        outcomes=outcomes,
        plan_changes=int(after.value("edgevit_plan_changes_total") or 0),
        silent=tuple(silent),
        tasks=tuple(_task(rate, after, each) for each in after.all_labels("edgevit_task_runs_total")),
    )


class _Rates:
    """What counters grew by between two looks."""

    def __init__(self, before: Look, after: Look) -> None:
        self._before, self._after = before, after
        self._seconds = max(after.at - before.at, 1e-9)

    def grown(self, name: str, **labels: str) -> float:
        """Since the look before; from nothing where a counter started anew, as of a plan that took over."""
        now, then = self._after.value(name, **labels) or 0.0, self._before.value(name, **labels) or 0.0
        return now - then if now >= then else now

    def of(self, name: str, **labels: str) -> float:
        """In a second."""
        return self.grown(name, **labels) / self._seconds


def _task(rate: _Rates, after: Look, labels: Mapping[str, str]) -> TaskView:
    runs = rate.grown("edgevit_task_runs_total", **labels)
    computed = rate.grown("edgevit_task_seconds_total", **labels)
    waited = rate.grown("edgevit_task_waited_seconds_total", **labels)
    return TaskView(
        device=labels.get("device", ""),
        task=labels.get("task", ""),
        runs_per_second=rate.of("edgevit_task_runs_total", **labels),
        now=computed / runs if runs else None,
        p50=after.value("edgevit_task_p50_seconds", **labels) or None,
        planned=after.value("edgevit_task_planned_seconds", **labels),
        waits=waited / runs if runs else None,
        queue=int(after.value("edgevit_task_queue", **labels) or 0),
        received_per_second=rate.of("edgevit_task_received_bytes_total", **labels),
        sent_per_second=rate.of("edgevit_task_sent_bytes_total", **labels),
        refused=int(after.value("edgevit_task_refused_total", **labels) or 0),
    )


def lines_of(seen: ServiceView) -> Sequence[str]:
    """A service in a few lines, without its tasks."""
    plan = "no plan is running" if seen.mode is None else f"{seen.mode} on {', '.join(seen.devices)}"
    which = "" if seen.mode is None or seen.best else ", another plan than the best: devices are lost"
    planned = seen.planned_items_per_second
    return [
        f"{seen.model}   {'ready' if seen.ready else 'not ready'}   {plan}{which}",
        "   ".join(
            [
                f"{seen.requests_per_second:.4g} requests/s",
                *([] if planned is None else [f"planned {planned:.4g} items/s"]),
                f"{seen.unanswered} on their way",
                f"{seen.waiting} waiting",
                *_latency(seen),
            ]
        ),
        "   ".join(
            [
                *(f"{name} {count}" for name, count in seen.outcomes.items()),
                f"plan changes {seen.plan_changes}",
            ]
        ),
        *(f"{device} does not answer" for device in seen.silent),
    ]


def _latency(seen: ServiceView) -> list[str]:
    if seen.p50_seconds is None or seen.p99_seconds is None:
        return []
    planned = "" if seen.planned_seconds is None else f" (planned {1e3 * seen.planned_seconds:.3g} ms)"
    return [f"p50 {1e3 * seen.p50_seconds:.3g} ms   p99 {1e3 * seen.p99_seconds:.3g} ms{planned}"]
