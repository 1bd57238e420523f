"""Where a file's operators run: what each backend takes, what it does not and why, in how many pieces."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgevit.errors import EdgevitError
from edgevit.export.artefacts import check_artefact
from edgevit.export.placement.match import refusal
from edgevit.export.placement.operators import Format, KindCount, Operator, count_kinds
from edgevit.export.placement.read_coreml import read_coreml
from edgevit.export.placement.read_onnx import read_onnx
from edgevit.export.placement.read_tflite import read_tflite
from edgevit.export.placement.schema import Table
from edgevit.export.placement.tables import index, tables
from edgevit.profiles import DeviceProfile, load_profile

_READERS = {".onnx": read_onnx, ".tflite": read_tflite, ".mlpackage": read_coreml}
_FORMATS: dict[str, Format] = dict(zip(_READERS, get_args(Format), strict=True))


# What runs a file of each format where nothing else is asked for.
_DEFAULTS: dict[Format, str] = {"onnx": "CPUExecutionProvider", "tflite": "XNNPACK", "coreml": "CPU_AND_NE"}


@dataclass(frozen=True)
class Fallback:
    """Operators of one kind that a backend does not take, for one reason."""

    kind: str
    count: int
    reason: str


@dataclass(frozen=True)
class BackendPlacement:
    """What one backend makes of a file's operators.

    Attributes:
        runtime: as in device profiles.
        via: what the runtime is asked for, as in device profiles.
        unit: what computes.
        release: the version of the runtime that the table is of.
        basis: "datasheet", "measurement" or "estimate", see `Table`.
        total: operators in the file.
        taken: those that it takes.
        takes: the same by kind.
        fallbacks: the others, most frequent first.
        partitions: pieces that it runs: runs of operators that it takes without one between them that it
            does not. A runtime may join some of them; data moves between units at each border.
        otherwise: what runs the others.
        loads: False where one operator that is not taken keeps the file from loading.
    """

    runtime: str
    via: str
    unit: str
    release: str
    basis: str
    total: int
    taken: int
    takes: tuple[KindCount, ...]
    fallbacks: tuple[Fallback, ...]
    partitions: int
    otherwise: str
    loads: bool


@dataclass(frozen=True)
class Placement:
    """Where the operators of a file can run.

    Attributes:
        artefact: the file.
        format: "onnx", "tflite" or "coreml".
        device: the device that the backends are of; None for all that are known.
        operators: kinds with counts, most frequent first.
        backends: one per backend.
        unknown: backends of the device that there is no table of, as "runtime via name".
    """

    artefact: str
    format: Format
    device: str | None
    operators: tuple[KindCount, ...]
    backends: tuple[BackendPlacement, ...]
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Operators in the file."""
        return sum(kind.count for kind in self.operators)

    @property
    def transposes(self) -> int:
        """Operators that only change the order of dimensions."""
        return sum(kind.count for kind in self.operators if kind.kind.lower() == "transpose")

    @property
    def default(self) -> BackendPlacement | None:
        """The backend that such a file meets first; None where the device has it not."""
        return next((item for item in self.backends if item.via == _DEFAULTS[self.format]), None)

    def on(self, device: DeviceProfile) -> Placement:
        """The same for the backends that a device has, in the order of its profile."""
        by_name = {(item.runtime, item.via): item for item in self.backends}
        wanted = [(backend.runtime, backend.via) for backend in device.backends(self.format)]
        return dataclasses.replace(
            self,
            device=device.title,
            backends=tuple(by_name[name] for name in wanted if name in by_name),
            unknown=tuple(f"{runtime} via {via}" for runtime, via in wanted if (runtime, via) not in by_name),
        )


def placement(artefact: str | Path, *, device: str | Path | DeviceProfile | None = None) -> Placement:
    """Where the operators of an exported file can run.

    Args:
        artefact: an ``.onnx``, ``.tflite`` or ``.mlpackage``.
        device: a device by name, file or profile; None for every backend that there is a table of.

    Raises:
        EdgevitError: when the file is damaged or of another kind, no device has this name, or the
            device does not run files of this format.
        MissingDependencyError: without the library that reads the format.
    """
    profile = device if isinstance(device, DeviceProfile) or device is None else load_profile(device)
    path = check_artefact(artefact)
    format_ = _FORMATS[path.suffix]
    if profile is not None and format_ not in profile.formats:
        raise EdgevitError(f"--device: {profile.title} runs {', '.join(profile.formats)}, not {format_}")
    operators = _READERS[path.suffix](path)
    everywhere = place(operators, path, format_)
    return everywhere if profile is None else everywhere.on(profile)


def place(operators: Sequence[Operator], path: Path, format_: Format) -> Placement:
    """The placement of operators that were read, on every backend of their format."""
    return Placement(
        artefact=str(path),
        format=format_,
        device=None,
        operators=count_kinds(operator.kind for operator in operators),
        backends=tuple(
            place_on(table, via, operators)
            for (_, via), table in index(tables()).items()
            if table.format == format_
        ),
    )


def place_on(table: Table, via: str, operators: Sequence[Operator]) -> BackendPlacement:
    """What one backend makes of operators in the order in which they run."""
    reasons = [refusal(table, operator) for operator in operators]
    if table.partitions == "first":
        reasons = _only_the_first(operators, reasons)
    refused = Counter(
        (operator.kind, reason)
        for operator, reason in zip(operators, reasons, strict=True)
        if reason is not None
    )
    loads = not refused or table.partitions != "whole"
    return BackendPlacement(
        runtime=table.runtime,
        via=via,
        unit=table.unit,
        release=table.release,
        basis=table.basis,
        total=len(operators),
        taken=reasons.count(None),
        takes=count_kinds(
            operator.kind for operator, reason in zip(operators, reasons, strict=True) if reason is None
        ),
        fallbacks=tuple(
            Fallback(kind, count, reason)
            for (kind, reason), count in sorted(refused.items(), key=lambda item: (-item[1], item[0]))
        ),
        partitions=count_runs([reason is None for reason in reasons]) if loads else 0,
        otherwise=table.otherwise.runs,
        loads=loads,
    )


def _only_the_first(operators: Sequence[Operator], reasons: Sequence[str | None]) -> list[str | None]:
    """Reasons where one piece is taken, the first: what comes after the refusal that ends it is not."""
    kept: list[str | None] = []
    began, ended = False, ""
    for operator, reason in zip(operators, reasons, strict=True):
        if reason is None:
            began = True
            kept.append(f"comes after {ended}, where the only partition ends" if ended else None)
            continue
        ended = ended or (operator.kind if began else "")
        kept.append(reason)
    return kept


def count_runs(taken: Sequence[bool]) -> int:
    """Maximal runs of true values.

    >>> count_runs([True, True, False, True]), count_runs([])
    (2, 0)
    """
    return sum(now and not before for before, now in zip([False, *taken], taken, strict=False))
