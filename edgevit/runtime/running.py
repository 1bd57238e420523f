"""A plan run on images: its answers in order, and what was measured beside what was planned."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.progress import track
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.lanes import Layout
from edgevit.runtime.ledger import Answer
from edgevit.runtime.local import local_workers
from edgevit.runtime.messages import check_device
from edgevit.runtime.models import Model, open_model
from edgevit.runtime.planned import planned_steps
from edgevit.runtime.survivors import plan_for, spare_plans
from edgevit.runtime.transport import Links
from edgevit.runtime.wire import Array


@dataclass(frozen=True)
class RunOptions:
    """Where a plan runs, and how.

    Attributes:
        model: the model that was planned, where it lies elsewhere than the plan says.
        links: how workers are met.
        local: whether workers are started on this machine.
        workers: for how many of the plan's devices, the first ones; None for all.
        pieces: folder that stages are exported to; None for one beside the plan.
        spares: whether what other plans of the file need is exported and sent ahead.
        wait: seconds for the devices to come and get ready.
        coordinator: how it is.
    """

    model: Path | None = None
    links: Links = field(default_factory=Links)
    local: bool = False
    workers: int | None = None
    pieces: Path | None = None
    spares: bool = True
    wait: float = 120.0
    coordinator: CoordinatorOptions = field(default_factory=CoordinatorOptions)


@dataclass(frozen=True)
class StepReport:
    """What a device did, for one item.

    Attributes:
        device: its name.
        task: what it did.
        runs: how often.
        seconds: of computing, measured.
        p50: seconds of computing, the median of the last runs.
        planned: seconds of computing; None where the plan says it of several parts together.
        waited: seconds in its queue.
        received: bytes.
        sent: bytes.
    """

    device: str
    task: str
    runs: int
    seconds: float
    p50: float
    planned: float | None
    waited: float
    received: float
    sent: float


@dataclass(frozen=True, eq=False)
class RunResult:
    """What came of a run.

    Attributes:
        outputs: by name, (n, ..), in the order of the images.
        n: items that were answered.
        degraded: how many were answered without some parts.
        repeated: how many were sent more than once.
        switches: how often another plan took over.
        seconds: of all of them.
        latencies: seconds of each.
        planned_throughput: items in a second that the bottleneck allows; None where nothing limits them.
        planned_latency: seconds of one with nothing else on the way.
        steps: what each device did since it was assigned what it does now.
    """

    outputs: dict[str, Array]
    n: int
    degraded: int
    repeated: int
    switches: int
    seconds: float
    latencies: tuple[float, ...]
    planned_throughput: float | None
    planned_latency: float
    steps: tuple[StepReport, ...]

    @property
    def throughput(self) -> float:
        """Items answered in a second."""
        return self.n / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which so many percent were answered."""
        return float(np.percentile(self.latencies, share))


@contextlib.contextmanager
def running(plan_path: str | Path, options: RunOptions) -> Iterator[Coordinator]:
    """A plan at work until the block ends: its pieces exported, its devices there and ready.

    Args:
        plan_path: the plan file.
        options: where and how.

    Raises:
        EdgevitError: when plan or model cannot be used, or the devices do not come.
    """
    path = Path(plan_path)
    plan = PlanFile.read(path)
    for device in plan.devices:
        # A name is a part of the keys under which a worker is reached.
        check_device(device.name, f"{path}: device")
    if options.local and options.workers is not None:
        plan = _for_the_first(options.workers, plan, path)
    origin = origin_of(plan, path, options.model)
    model = open_model(plan, origin, options.pieces or pieces_of(path))
    spares = exported(plan, model, spares=options.spares)
    with contextlib.ExitStack() as stack:
        links = options.links
        if options.local:
            if links != Links():
                raise EdgevitError("--local: workers are on this machine; give neither addresses nor keys")
            names = [device.name for device in plan.devices][: options.workers]
            workers = stack.enter_context(local_workers(names, path.with_suffix(".workers.log")))
            links = Links(listen=(workers.address,))
        coordinator = Coordinator(plan, model, links, options.coordinator, spares)
        stack.callback(coordinator.close)
        coordinator.wait_until_ready(options.wait)
        yield coordinator


def _for_the_first(count: int, plan: PlanFile, path: Path) -> PlanFile:
    """A plan file whose best plan is that of its first few devices."""
    names = [device.name for device in plan.devices]
    if not 1 <= count <= len(names):
        raise EdgevitError(f"--local {count}: {path} has {len(names)} devices")
    entry = plan_for(plan, names[:count])
    if entry is None:
        raise EdgevitError(
            f"--local {count}: {path} has no plan for {', '.join(names[:count])} alone; start more, or plan "
            "for fewer devices"
        )
    return plan.model_copy(update={"plan": entry})


def pieces_of(plan: Path) -> Path:
    """Folder that the stages of a plan file are exported to."""
    return plan.with_suffix(".pieces")


def origin_of(plan: PlanFile, path: Path, given: Path | None) -> Path:
    """Where the model of a plan is: as given, as the plan says, or beside the plan.

    Args:
        plan: what the file says.
        path: of the file.
        given: where the model is said to be; None where nothing was said.

    Raises:
        EdgevitError: when it is nowhere.
    """
    if given is not None:
        return given
    named = Path(plan.model)
    beside = path.parent / named
    for place in (named, beside, path.parent / named.name):
        if place.exists():
            return place
    raise EdgevitError(f"{path}: its model {plan.model} is not there; say where it is with --model")


def exported(plan: PlanFile, model: Model, *, spares: bool) -> list[Layout]:
    """Layouts of other plans than the best, if they are wanted; the files of all are exported."""
    entries = [plan.plan, *(spare_plans(plan) if spares else ())]
    return [model.layout(entry) for entry in entries][1:]


def run(
    plan: str | Path, images: Array, *, options: RunOptions | None = None, deadline: float = float("inf")
) -> RunResult:
    """Run a plan on prepared images.

    Args:
        plan: the plan file.
        images: (n, channels, height, width) float32, as many as fill items.
        options: where and how; None for workers that connect to this machine.
        deadline: seconds that one item may take.

    Raises:
        EdgevitError: when plan, model or images cannot be used, devices do not come, or an item is not
            answered.
    """
    with running(plan, options or RunOptions()) as coordinator:
        shape = coordinator.model.shape
        if images.ndim != len(shape) or images.shape[1:] != shape[1:] or len(images) % shape[0]:
            raise EdgevitError(f"images: their shape is {images.shape}; the plan takes {shape} at a time")
        items = images.reshape(-1, *shape)
        return run_images(coordinator, items, len(items), deadline=deadline)


def run_images(
    coordinator: Coordinator, images: Iterable[Array], count: int, *, deadline: float = float("inf")
) -> RunResult:
    """Send images through a plan that runs, as many at once as there may be on the way.

    Args:
        coordinator: the plan at work.
        images: each as the model takes one item: (items, channels, height, width).
        count: how many there are.
        deadline: seconds that one may take.

    Raises:
        EdgevitError: when there are none, or one is not answered.
    """
    name = coordinator.model.card.inputs[0]
    pending: deque[Future[Answer]] = deque()
    answers: list[Answer] = []
    started = time.perf_counter()
    for image in track(images, "running", count):
        pending.append(coordinator.submit({name: image}, deadline=deadline))
        while pending and (pending[0].done() or len(pending) > coordinator.in_flight):
            answers.append(pending.popleft().result())
    answers += [future.result() for future in pending]
    seconds = time.perf_counter() - started
    if not answers:
        raise EdgevitError("there are no images to run")
    return _result(coordinator, answers, seconds)


def _result(coordinator: Coordinator, answers: Sequence[Answer], seconds: float) -> RunResult:
    planned = coordinator.plan.plan
    names = answers[0].outputs.keys()
    return RunResult(
        outputs={name: np.concatenate([answer.outputs[name] for answer in answers]) for name in names},
        n=len(answers),
        degraded=sum(answer.degraded for answer in answers),
        repeated=sum(answer.attempts > 1 for answer in answers),
        switches=coordinator.switches,
        seconds=seconds,
        latencies=tuple(answer.seconds for answer in answers),
        planned_throughput=1 / planned.bottleneck_seconds if planned.bottleneck_seconds else None,
        planned_latency=planned.latency_seconds,
        steps=tuple(_steps(coordinator)),
    )


def _steps(coordinator: Coordinator) -> Iterator[StepReport]:
    orders = coordinator.running
    planned = {} if orders is None else planned_steps(orders.entry)
    for device, status in coordinator.statuses().items():
        for task in () if status is None else status.tasks:
            runs = max(1, task.runs)
            yield StepReport(
                device=device,
                task=task.key,
                runs=task.runs,
                seconds=task.seconds / runs,
                p50=task.p50,
                planned=planned[task.key].seconds if task.key in planned else None,
                waited=task.waited / runs,
                received=task.received / runs,
                sent=task.sent / runs,
            )
