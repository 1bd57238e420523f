"""A split is measured and written: its parts, their fusion, and the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit import extras
from edgevit.files import sha256_of, staged_folder
from edgevit.graph.program import Program
from edgevit.pruning import assignment
from edgevit.pruning.assignment import Assignment, Device, Load
from edgevit.pruning.candidates import Candidate, Task, accuracy
from edgevit.pruning.dataset import outputs_of
from edgevit.pruning.fusion import Fusion
from edgevit.pruning.parts import FLOAT_BYTES, costs_of, own_labels
from edgevit.pruning.split import (
    CONTROL_FILE,
    FUSION,
    MANIFEST,
    PAGE,
    REPORT,
    Control,
    FusionEntry,
    Manifest,
    Options,
    Part,
    Placement,
    Whole,
)
from edgevit.pruning.subsets import GroupingName

# Writes into the folder that becomes a split.
Finish = Callable[[Path, Manifest], None]


@dataclass(frozen=True, eq=False)
class Draft:
    """A split that is to be written.

    Attributes:
        chosen: its parts.
        fusion: of their features.
        control: what one device alone could run instead.
        compared: accuracy of each grouping that was tried; None where it was given.
    """

    chosen: Candidate
    fusion: Fusion
    control: Program
    compared: dict[GroupingName, float] | None


def write_split(task: Task, split: Draft, output: Path, finish: Finish | None) -> Manifest:
    """Everything into the output folder, whole or not at all."""
    with staged_folder(output) as stage:
        for place, program in enumerate(split.chosen.parts):
            program.save(stage / part_file(place))
        split.fusion.save(stage / FUSION)
        split.control.save(stage / CONTROL_FILE)
        manifest = _manifest(task, split, stage)
        manifest.write(stage / MANIFEST)
        if finish is not None:
            finish(stage, manifest)
    _remove_stale(output, manifest, reported=finish is not None)
    return manifest


def part_file(place: int) -> str:
    """The name of a part's file, from its place among them."""
    return f"part-{place + 1}.pt2"


def _manifest(task: Task, split: Draft, stage: Path) -> Manifest:
    options, card = task.options, task.program.card
    chosen, fusion = split.chosen, split.fusion
    parts = tuple(_part(task, chosen, fusion, stage, place) for place in range(len(chosen.parts)))
    placement, greedy = _placements(parts, options.devices)
    return Manifest(
        edgevit=extras.version_of("edgevit") or "",
        model=card.name,
        classes=task.program.num_classes,
        labels=card.labels,
        options=Options(
            keep=options.share,
            grouping=options.grouping,
            epochs=options.epochs,
            seed=options.seed,
            images=len(task.learned),
            held_out=len(task.judged),
        ),
        grouping=chosen.grouping,
        compared=split.compared,
        whole=_whole(task),
        parts=parts,
        fusion=FusionEntry(
            file=FUSION,
            sha256=sha256_of(stage / FUSION),
            parameters=sum(value.numel() for value in fusion.network.parameters()),
            accuracy=_fused_accuracy(task, chosen, fusion),
        ),
        control=_control(task, split.control, stage),
        placement=placement,
        greedy=greedy,
    )


def _whole(task: Task) -> Whole:
    macs, size = costs_of(task.program)
    return Whole(
        parameters=task.program.parameter_count,
        bytes=size,
        macs=macs,
        accuracy=accuracy(task.teacher[task.judged], task.labels[task.judged]),
    )


def _control(task: Task, control: Program, stage: Path) -> Control:
    macs, size = costs_of(control)
    logits, *_ = outputs_of(control, task.images[task.judged], torch_device=task.options.torch_device)
    return Control(
        file=CONTROL_FILE,
        sha256=sha256_of(stage / CONTROL_FILE),
        bytes=size,
        macs=macs,
        accuracy=accuracy(logits, task.labels[task.judged]),
    )


def _part(task: Task, chosen: Candidate, fusion: Fusion, stage: Path, place: int) -> Part:
    program, plan, file = chosen.parts[place], chosen.plans[place], part_file(place)
    macs, size = costs_of(program)
    own = task.judged[np.isin(task.labels[task.judged], plan.classes)]
    lost = _fused_accuracy(task, chosen, fusion, lost=place) if len(chosen.parts) > 1 else None
    return Part(
        name=plan.name,
        file=file,
        sha256=sha256_of(stage / file),
        classes=plan.classes,
        parameters=program.parameter_count,
        bytes=size,
        macs=macs,
        bytes_sent=FLOAT_BYTES * chosen.features[place].shape[1],
        accuracy=accuracy(chosen.logits[place][own], own_labels(task.labels[own], plan.classes)),
        accuracy_without=lost,
    )


def _fused_accuracy(task: Task, chosen: Candidate, fusion: Fusion, *, lost: int | None = None) -> float:
    """On the images held out, one part missing or none."""
    features = [None if place == lost else part[task.judged] for place, part in enumerate(chosen.features)]
    return accuracy(fusion.predict(features), task.labels[task.judged])


def _placements(
    parts: Sequence[Part], devices: tuple[Device, ...] | None
) -> tuple[Placement | None, Placement | None]:
    """The fastest, and the published baseline's."""
    if devices is None:
        return None, None
    loads = [Load(part.name, part.macs, part.bytes) for part in parts]
    greedy = assignment.greedy(loads, devices)
    return _placement(assignment.assign(loads, devices)), None if greedy is None else _placement(greedy)


def _placement(found: Assignment) -> Placement:
    return Placement(device_of=dict(found.device_of), seconds=dict(found.seconds), latency=found.latency)


def _remove_stale(output: Path, manifest: Manifest, *, reported: bool) -> None:
    """What is left of a split that was replaced: further parts, and a report that is not of this one."""
    files = {part.file for part in manifest.parts}
    for path in output.glob("part-*.pt2"):
        if path.name not in files:
            path.unlink()
    if not reported:
        for name in (REPORT, PAGE):
            (output / name).unlink(missing_ok=True)
