"""Time and size of artefacts relative to another one's, measured in turns on this machine."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.export.quantized import has_int16
from edgevit.graph.program import Program
from edgevit.profiling.local import check_profilable
from edgevit.profiling.turns import medians_in_turns

# Formats with a runtime that can be timed on the machine at hand.
TIMED = ("onnx", "tflite")


@dataclass(frozen=True)
class Relative:
    """One artefact beside another.

    Attributes:
        latency: its median time, of the other's.
        size: its bytes, of the other's.
    """

    latency: float
    size: float


def relative(program: Program, other: Program, to: str) -> Relative:
    """One artefact beside another (`all_relative`)."""
    return all_relative(program, [other], to)[1][0]


def all_relative(program: Program, others: Sequence[Program], to: str) -> tuple[float, list[Relative]]:
    """Time and bytes of artefacts relative to one that all are compared with, on one thread.

    Args:
        program: what the others became of.
        others: any number; each is timed in turns with all.
        to: a format of `TIMED`.

    Returns:
        Milliseconds of the one, and the others relative to it.
    """
    format_ = FORMATS[to]
    extras.require(check_profilable(format_.file), "measuring latency")
    # ONNX has 16-bit activations from a later opset on; all files are of that one.
    choices = ExportChoices(opset=23 if any(map(has_int16, others)) else None)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for place, source in enumerate((program, *others)):
            path = Path(folder) / str(place) / format_.file
            path.parent.mkdir()
            format_.export(source, path, choices)
            paths.append(path)
        first, *times = medians_in_turns(paths)
        size, *sizes = (path.stat().st_size for path in paths)
    return first, [Relative(time / first, own / size) for time, own in zip(times, sizes, strict=True)]


def timed_here(to: str) -> str | None:
    """The format, where it can be timed and its runtime is installed; None otherwise."""
    return to if to in TIMED and not extras.missing(FORMATS[to].extra) else None


def machine() -> dict[str, Any]:
    """What figures were measured on."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
    }
