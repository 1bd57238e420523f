"""The run file: what was measured while a plan ran, bound to that plan and to its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.planning.cluster_file import Amount, Index, Positive
from edgevit.planning.modes import Mode
from edgevit.planning.plan_file import TaskEntry
from edgevit.profiles.documents import (
    Document,
    Located,
    Strict,
    Text,
    fault,
    like,
    read_located,
    write_document,
)

_DOCUMENT = Document(noun="run", version=1, example="plan_sha256: ..", depth=5, most_bytes=20_000_000)

Sha256 = Annotated[str, like(r"[0-9a-f]{64}", "must be a SHA-256 in 64 hexadecimal digits")]


class MeasuredTask(Strict):
    """What a device did, for one item.

    Attributes:
        planned: what it was to do, and how long that was to take.
        part: the sub-model of an ensemble; None for segments.
        runs: how often it did it.
        seconds: of computing.
        p50_seconds: of computing, the median of the last ones.
        waited_seconds: in its queue.
        received_bytes: with all that frames have beside tensors.
        sent_bytes: likewise.
    """

    planned: TaskEntry
    part: Text | None = None
    runs: Index
    seconds: Amount
    p50_seconds: Amount
    waited_seconds: Amount
    received_bytes: Amount
    sent_bytes: Amount

    @model_validator(mode="after")
    def _part_is_planned(self) -> MeasuredTask:
        parts = self.planned.parts
        if (self.part is None) != (parts is None) or (parts is not None and self.part not in parts):
            raise fault(("part",), "must be one of the planned parts, or missing where segments are planned")
        return self


class MeasuredLine(Strict):
    """How fast bytes get from the coordinator to a device."""

    device: Text
    bytes_per_second: Positive


class RunFile(Strict):
    """A run as it is written.

    Attributes:
        version: of this format.
        edgevit: version that made it.
        plan: file of the plan.
        plan_sha256: of that file.
        model: file of the model.
        model_sha256: of that file, or of a split's manifest.
        items: images that travelled together.
        mode: of the plan that ran at the end.
        n: items that were answered.
        seconds: of all of them.
        planned_seconds: between answers, of the plan that ran at the end.
        p50_seconds: within which half of them were answered.
        p90_seconds: likewise of 90 percent.
        p99_seconds: likewise of 99 percent.
        planned_latency_seconds: of one with nothing else on the way.
        degraded: how many were answered without some parts.
        repeated: how many were sent more than once.
        switches: how often another plan took over.
        tasks: what each device did since it was assigned what it does now.
        lines: of the devices that do anything.
    """

    version: Literal[1] = 1
    edgevit: str
    plan: Text
    plan_sha256: Sha256
    model: Text
    model_sha256: Sha256
    items: Annotated[int, Field(ge=1)] = 1
    mode: Mode
    n: Annotated[int, Field(ge=1)]
    seconds: Positive
    planned_seconds: Amount
    p50_seconds: Amount
    p90_seconds: Amount
    p99_seconds: Amount
    planned_latency_seconds: Amount
    degraded: Index = 0
    repeated: Index = 0
    switches: Index = 0
    tasks: Annotated[tuple[MeasuredTask, ...], Field(min_length=1)]
    lines: tuple[MeasuredLine, ...] = ()

    def write(self, path: Path) -> None:
        """Write as YAML, whole or not at all.

        Raises:
            EdgevitError: when it cannot be written.
        """
        write_document(path, self.version, self)

    @classmethod
    def read(cls, path: str | Path) -> Located[RunFile]:
        """Read a file, with the lines of what it says.

        Raises:
            EdgevitError: naming the file, the line and the key of the first thing that is wrong.
        """
        return read_located(Path(path), cls, _DOCUMENT)
