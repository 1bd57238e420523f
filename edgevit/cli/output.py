"""How results are printed: lines for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit import progress

if TYPE_CHECKING:
    from edgevit.export.placement import BackendPlacement, Placement

TICK, CROSS = "-[x]", "-[ ]"


def prepare(*, as_json: bool, quiet: bool) -> None:
    """Silence progress where only the result is wanted."""
    if as_json or quiet:
        progress.silence()


def plain(value: Any) -> Any:
    """A result as plain JSON values; numbers that JSON cannot write become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(plain(value), indent=1, allow_nan=False))


def check_line(text: str, *, passed: bool) -> str:
    """A line that says whether a check passed."""
    return f"{TICK if passed else CROSS} {text}{'' if passed else '  FAILED'}"


def interval(low_ms: float | None, high_ms: float | None) -> str:
    """What to say behind a predicted time of where it lies; nothing where that is not known."""
    return "" if low_ms is None else f" ({low_ms:.2f} to {high_ms:.2f} for 9 models of 10)"


def megabytes(size: int) -> str:
    """Bytes as MB (10^6), to three digits.

    >>> megabytes(22883344), megabytes(1234)
    ('22.9 MB', '0.00123 MB')
    """
    return f"{size / 1e6:.3g} MB"


def operators_line(placement: Placement) -> str:
    """How many operators a file has, and how many its runtime takes: on a device, each way to run it."""
    count = placement.transposes
    transposes = "1 transpose" if count == 1 else f"{count} transposes"
    line = f"ops: {placement.total} in {len(placement.operators)} kinds, {transposes}"
    first = () if placement.default is None else (placement.default,)
    backends = first if placement.device is None else placement.backends
    return "; ".join([line, *map(_takes, backends)])


def _takes(backend: BackendPlacement) -> str:
    pieces = f" in {backend.partitions} partitions" if backend.partitions > 1 else ""
    return f"{backend.via} takes {backend.taken}{pieces}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of equally many cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        click.echo(f"  {'  '.join(cells)}".rstrip())
