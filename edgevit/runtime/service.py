"""What every door of a service does: take a place or refuse, ask the coordinator, put answers together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.graph.card import Card
from edgevit.planning.plan_file import PlanEntry, PlanFile
from edgevit.runtime.coordinator import Coordinator
from edgevit.runtime.ledger import Answer
from edgevit.runtime.metrics import Sample, samples_of, write_metrics
from edgevit.runtime.planned import planned_steps
from edgevit.runtime.protocol import RequestError, Served, TensorSpec
from edgevit.runtime.wire import Array

# Requests whose quantiles are told.
_RECENT = 1024


class BusyError(EdgevitError):
    """Too many requests at once, or in too short a time."""


@dataclass(frozen=True)
class ServiceOptions:
    """What is served, and to how many.

    Attributes:
        name: of the model; None for its card's.
        most_bytes: of one request.
        most_images: in one request.
        queue: images that may wait for a place.
        rate: images in a second, on average; infinite for no limit.
        deadline: seconds that one request may take where it does not say; infinite for ever.
    """

    name: str | None = None
    most_bytes: int = 32 * 2**20
    most_images: int = 64
    queue: int = 256
    rate: float = math.inf
    deadline: float = 30.0

    def __post_init__(self) -> None:
        limits = {
            "max-request": self.most_bytes >= 1,
            "max-images": 1 <= self.most_images <= 4096,
            "queue": self.queue >= 1,
            "rate": self.rate > 0,
            "deadline": self.deadline > 0,
        }
        for name, holds in limits.items():
            if not holds:
                raise EdgevitError(f"--{name}: must be above 0")


class Bucket:
    """Tokens that are spent, and come back at a rate: a second's worth at most.

    Args:
        rate: tokens in a second; infinite for as many as are wanted.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._tokens, self._since = rate, max(1.0, rate), time.monotonic()

    def take(self, count: int) -> bool:
        """Spend tokens, if there are any: what is more than there are is owed."""
        if math.isinf(self._rate):
            return True
        now = time.monotonic()
        self._tokens = min(max(1.0, self._rate), self._tokens + self._rate * (now - self._since))
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= count
        return True


class Service:
    """A plan at work, for clients.

    Args:
        coordinator: the plan.
        options: what is served, and to how many.
    """

    def __init__(self, coordinator: Coordinator, options: ServiceOptions) -> None:
        self.options = options
        self.served = _served(coordinator, options)
        self.card: Card = coordinator.model.card
        self._coordinator = coordinator
        self._items = coordinator.plan.items
        self._places = asyncio.Semaphore(coordinator.in_flight)
        self._bucket = Bucket(options.rate)
        self._waiting = 0
        # Seconds of the last requests.
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._outcomes = dict.fromkeys(("answered", "degraded", "busy", "failed"), 0)

    @property
    def ready(self) -> bool:
        """Whether a plan is running."""
        return self._coordinator.ready

    async def infer(self, images: Array, timeout: float | None) -> tuple[dict[str, Array], bool]:
        """Outputs for images, and whether some parts of an ensemble are missing in them.

        Args:
            images: (n, ..) as the model takes them.
            timeout: seconds that it may take; None for the service's own.

        Raises:
            BusyError: when too many wait already, or asked lately.
            RequestError: when the plan takes another number of images at once.
            EdgevitError: when no answer came.
        """
        if len(images) % self._items:
            raise RequestError(f"{len(images)} images: the plan takes {self._items} at a time")
        count = len(images) // self._items
        self._check_busy(len(images), count)
        started = time.monotonic()
        until = started + (timeout or self.options.deadline)
        self._waiting += count
        try:
            items = np.split(images, count)
            answers = await asyncio.gather(*(self._one(item, until) for item in items))
        except EdgevitError:
            self._outcomes["failed"] += 1
            raise
        finally:
            self._waiting -= count
        self._recent.append(time.monotonic() - started)
        self._outcomes["degraded" if any(answer.degraded for answer in answers) else "answered"] += 1
        outputs = {
            name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs
        }
        return outputs, any(answer.degraded for answer in answers)

    def _check_busy(self, images: int, items: int) -> None:
        reason = None
        if not self._bucket.take(images):
            reason = f"more than {self.options.rate:g} images in a second; try again later"
        elif self._waiting + items > self.options.queue:
            reason = f"{self._waiting} images wait already; try again later"
        if reason is not None:
            self._outcomes["busy"] += 1
            raise BusyError(reason)

    def metrics(self) -> str:
        """Counts so far in the text format of Prometheus; asks every device, so it takes a moment."""
        orders = self._coordinator.running
        steps = {} if orders is None else planned_steps(orders.entry)
        planned = {key: step.seconds for key, step in steps.items()}
        return write_metrics([*self._samples(), *samples_of(self._coordinator.statuses(), planned)])

    def _samples(self) -> Iterator[Sample]:
        yield Sample("edgevit_model_info", {"model": self.served.name}, 1.0)
        yield Sample("edgevit_ready", {}, float(self.ready))
        yield Sample("edgevit_waiting_items", {}, float(self._waiting))
        yield Sample("edgevit_unanswered_items", {}, float(self._coordinator.unanswered))
        yield Sample("edgevit_plan_changes_total", {}, float(self._coordinator.switches))
        for name, count in self._outcomes.items():
            yield Sample("edgevit_requests_total", {"outcome": name}, float(count))
        recent = list(self._recent)
        for share in (0.5, 0.9, 0.99) if recent else ():
            yield Sample(
                "edgevit_request_seconds", {"quantile": f"{share:g}"}, float(np.quantile(recent, share))
            )
        orders = self._coordinator.running
        if orders is not None:
            yield from _of_plan(self._coordinator.plan, orders.entry)

    async def _one(self, item: Array, until: float) -> Answer:
        async with self._places:
            left = until - time.monotonic()
            if left <= 0:
                raise EdgevitError("no place came free within the deadline")
            asked = self._coordinator.submit({self.served.input.name: item}, deadline=left, wait=1.0)
            return await asyncio.wrap_future(asked)


def _of_plan(plan: PlanFile, entry: PlanEntry) -> Iterator[Sample]:
    """Which plan of the file is carried out, and what it promises."""
    devices = ",".join(dict.fromkeys(task.device for task in entry.tasks))
    best = "yes" if entry is plan.plan else "no"
    yield Sample("edgevit_plan_info", {"mode": entry.mode, "devices": devices, "best": best}, 1.0)
    if entry.bottleneck_seconds:
        yield Sample("edgevit_planned_items_per_second", {}, 1 / entry.bottleneck_seconds)
    yield Sample("edgevit_planned_latency_seconds", {}, entry.latency_seconds)


def _served(coordinator: Coordinator, options: ServiceOptions) -> Served:
    model = coordinator.model
    card = model.card
    return Served(
        name=options.name or card.name,
        input=TensorSpec(card.inputs[0], "FP32", model.shape[1:]),
        outputs=tuple(TensorSpec(name, "FP32", shape) for name, shape in model.outputs.items()),
        labels=None if card.labels is None else tuple(card.labels),
        most=options.most_images,
    )
