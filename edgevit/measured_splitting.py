"""Split by classes: from a Program and a folder to sub-models, their latency measured, and a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.files import check_output
from edgevit.graph.program import Program
from edgevit.images import OnBadImage
from edgevit.profiling.relative import all_relative, machine, timed_here
from edgevit.pruning.classwise import check_split, split_with
from edgevit.pruning.control import CONTROL
from edgevit.pruning.dataset import read_labelled
from edgevit.pruning.options import SplitOptions
from edgevit.pruning.split import PAGE, REPORT, Manifest
from edgevit.report.splitting import render

_FORMAT = "onnx"


@dataclass(frozen=True)
class MeasuredSplit:
    """What `split_folder` made.

    Attributes:
        folder: `edgevit.pruning.split.read_split` reads it.
        manifest: what each part is; it is in the folder too.
        format: the format in whose runtime latency was measured; None without one here.
        whole_ms: milliseconds that the whole takes, one thread; None where it was not measured.
        latency: of each part, and of the control, relative to that.
    """

    folder: Path
    manifest: Manifest
    format: str | None
    whole_ms: float | None
    latency: dict[str, float] | None


def split_folder(
    program: Program | str | Path,
    *,
    data: str | Path,
    output: str | Path,
    options: SplitOptions,
    images: int = 2000,
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> MeasuredSplit:
    """`split_classes` on images of a folder; latency is measured, and a report is written.

    Args:
        program: as there.
        data: a folder with labels.
        output: the folder to write.
        options: how to split.
        images: how many are drawn; they are in memory as float16.
        on_bad_image: "fail" or "skip".
        force: replace what is there.

    Raises:
        EdgevitError: as there.
    """
    program = program if isinstance(program, Program) else Program.load(program)
    folder = Path(output)
    check_output(folder, names=[REPORT, PAGE], force=force)
    check_split(program, options, folder, force=force)
    drawn, labels = read_labelled(program, data, count=images, seed=options.seed, on_bad_image=on_bad_image)
    found: list[MeasuredSplit] = []

    def finish(stage: Path, manifest: Manifest) -> None:
        measured = _measured(program, stage, manifest, folder)
        found.append(measured)
        (stage / PAGE).write_text(render(summary(measured)), encoding="utf-8")
        (stage / REPORT).write_text(json.dumps(summary(measured), indent=1) + "\n", encoding="utf-8")

    split_with(program, drawn, labels, folder, options, finish=finish)
    return found[0]


def summary(result: MeasuredSplit) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    return {
        "version": 1,
        "edgevit": extras.version_of("edgevit") or "",
        "machine": machine(),
        "manifest": result.manifest.model_dump(mode="json"),
        "format": result.format,
        "whole_ms": result.whole_ms,
        "latency": result.latency,
    }


def _measured(program: Program, stage: Path, manifest: Manifest, folder: Path) -> MeasuredSplit:
    """Every part, and the control, timed in turns with the whole, where a runtime is here."""
    timed = timed_here(_FORMAT)
    if timed is None:
        return MeasuredSplit(folder, manifest, None, None, None)
    files = {part.name: part.file for part in manifest.parts} | {CONTROL: manifest.control.file}
    programs = [Program.load(stage / file) for file in files.values()]
    whole_ms, relatives = all_relative(program, programs, timed)
    latency = {name: one.latency for name, one in zip(files, relatives, strict=True)}
    return MeasuredSplit(folder, manifest, timed, whole_ms, latency)
