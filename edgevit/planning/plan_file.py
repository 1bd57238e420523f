"""The plan file: what was planned, for the programs that run or simulate it and for people who ask why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.errors import EdgevitError, closest
from edgevit.planning.cluster_file import Amount, Index, Positive
from edgevit.planning.modes import Mode
from edgevit.planning.problem import Objective
from edgevit.profiles.documents import Document, Strict, Text, fault, read_document, write_document
from edgevit.profiles.schema import Format

# Thousands of devices with a line or two each.
_DOCUMENT = Document(noun="plan", version=1, example="objective: throughput", depth=6, most_bytes=20_000_000)

Share = Annotated[float, Field(gt=0, le=1)]


class WireEntry(Strict):
    """What is sent for one item.

    Attributes:
        precision: of its elements.
        bytes: that are sent.
    """

    precision: Text
    bytes: Amount


class TaskEntry(Strict):
    """What a device does: a stage of a pipeline, the whole model, or parts of an ensemble.

    Attributes:
        device: its name.
        format: of the artefact that it runs.
        precision: likewise.
        first: number of its first segment, from 0; None for parts.
        last: of the last; likewise.
        parts: names of sub-models; None for segments.
        share: of the items that it sees.
        received: what it gets for one item.
        sent: what it gives.
        seconds: predicted, of computing for one item.
        receive_seconds: predicted, of getting it with nothing else on the way.
        send_seconds: likewise of giving it on.
    """

    device: Text
    format: Format
    precision: Text
    first: Index | None = None
    last: Index | None = None
    parts: tuple[Text, ...] | None = None
    share: Share = 1.0
    received: WireEntry
    sent: WireEntry
    seconds: Amount
    receive_seconds: Amount
    send_seconds: Amount

    @model_validator(mode="after")
    def _segments_or_parts(self) -> TaskEntry:
        segments = self.first is not None and self.last is not None
        if segments == (self.parts is not None):
            raise fault(("device",), "has either first and last, or parts")
        if self.first is not None and self.last is not None and self.last < self.first:
            raise fault(("last",), f"must be at least {self.first}, the first")
        return self


class PlanEntry(Strict):
    """Who does what, and what that is predicted to give.

    Attributes:
        mode: single, replicas, pipeline or ensemble.
        optimal: whether nothing of this mode can be better.
        value: of the objective: seconds or joules.
        bound: that no plan of this mode can go below.
        bottleneck_seconds: between answers when there is always something to do.
        latency_seconds: from an item to its answer with nothing else on the way.
        joules: for one item; None where they are not known.
        tasks: in the order of the chain in a pipeline.
    """

    mode: Mode
    optimal: bool
    value: Amount
    bound: Amount
    bottleneck_seconds: Amount
    latency_seconds: Amount
    joules: Amount | None = None
    tasks: Annotated[tuple[TaskEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _tasks_fit(self) -> PlanEntry:
        if self.mode == "pipeline":
            ends = [-1, *(task.last for task in self.tasks)]
            for place, (task, before) in enumerate(zip(self.tasks, ends, strict=False)):
                if task.first is None or before is None or task.first != before + 1:
                    raise fault(("tasks", place, "first"), "must follow the last segment of the stage before")
        return self


class ComparedEntry(Strict):
    """What a mode comes to: its figures, or why it is impossible."""

    mode: Mode
    bottleneck_seconds: Amount | None = None
    latency_seconds: Amount | None = None
    joules: Amount | None = None
    devices: Index = 0
    optimal: bool | None = None
    reason: Text | None = None


class LossEntry(Strict):
    """What is done without a device: the same as with it, another plan, or nothing, and why.

    Attributes:
        device: that is lost.
        unchanged: whether nothing changes: it does nothing.
        like: another device that is like it; what is done without that one, with the two exchanged.
        plan: of the others.
        reason: why there is none.
    """

    device: Text
    unchanged: bool = False
    like: Text | None = None
    plan: PlanEntry | None = None
    reason: Text | None = None


class HostEntry(Strict):
    """A device as a simulation needs it; without a number where nothing limits it."""

    name: Text
    bytes_per_second: Positive | None = None
    latency_seconds: Amount = 0.0
    network: Text | None = None


class MediumEntry(Strict):
    """A network that devices share."""

    name: Text
    bytes_per_second: Positive


class PlanFile(Strict):
    """A plan as it is written.

    Attributes:
        version: of this format.
        edgevit: version that made it.
        model: the file, or the name, of what runs.
        items: images that travel together.
        objective: what was to be low.
        verdict: whether it pays to divide the work, in a sentence.
        notes: what was not measured.
        input: the device that has the images, if that matters.
        answer: the device that wants the answers, likewise.
        cuts: names of the places between segments; none for an ensemble.
        fusion_seconds: of making one answer of all features of an ensemble.
        devices: all of the cluster.
        networks: that are shared.
        plan: the best.
        comparison: of all modes.
        alternatives: the next best.
        losses: for each device, what is done without it.
    """

    version: Literal[1] = 1
    edgevit: str
    model: Text
    items: Annotated[int, Field(ge=1)] = 1
    objective: Objective
    verdict: Text
    notes: tuple[Text, ...] = ()
    input: Text | None = None
    answer: Text | None = None
    cuts: tuple[Text, ...] = ()
    fusion_seconds: Amount = 0.0
    devices: Annotated[tuple[HostEntry, ...], Field(min_length=1)]
    networks: tuple[MediumEntry, ...] = ()
    plan: PlanEntry
    comparison: tuple[ComparedEntry, ...] = ()
    alternatives: tuple[PlanEntry, ...] = ()
    losses: tuple[LossEntry, ...] = ()

    @model_validator(mode="after")
    def _devices_are_known(self) -> PlanFile:
        known = {device.name for device in self.devices}
        for role in ("input", "answer"):
            if getattr(self, role) not in {None, *known}:
                raise fault((role,), "is none of the devices")
        for place, task in enumerate(self.plan.tasks):
            if task.device not in known:
                raise fault(("plan", "tasks", place, "device"), "is none of the devices")
        lost = {loss.device for loss in self.losses if loss.plan is not None}
        for place, loss in enumerate(self.losses):
            if loss.like not in {None, *lost}:
                raise fault(("losses", place, "like"), "is no lost device that there is a plan for")
        networks = {network.name for network in self.networks}
        for place, device in enumerate(self.devices):
            if device.network not in {None, *networks}:
                raise fault(("devices", place, "network"), "is none of the shared networks")
        return self

    def without(self, device: str) -> PlanEntry | None:
        """What is done without a device; None where there is no plan for that.

        Raises:
            EdgevitError: when the plan says nothing of such a device.
        """
        losses = {loss.device: loss for loss in self.losses}
        if device not in losses:
            raise EdgevitError(f"the plan says nothing of a lost {device!r}; {closest(device, losses)}")
        loss = losses[device]
        if loss.unchanged:
            return self.plan
        if loss.like is None:
            return loss.plan
        plan = losses[loss.like].plan
        return None if plan is None else _exchanged(plan, device, loss.like)

    def write(self, path: Path) -> None:
        """Write as YAML, whole or not at all.

        Raises:
            EdgevitError: when it cannot be written.
        """
        write_document(path, self.version, self)

    @classmethod
    def read(cls, path: str | Path) -> PlanFile:
        """Read a file.

        Raises:
            EdgevitError: naming the file, the line and the key of the first thing that is wrong.
        """
        return read_document(Path(path), cls, _DOCUMENT)


def _exchanged(plan: PlanEntry, device: str, other: str) -> PlanEntry:
    tasks = tuple(
        task.model_copy(update={"device": other}) if task.device == device else task for task in plan.tasks
    )
    return plan.model_copy(update={"tasks": tasks})
