"""One classifier into several: each pruned for a share of the classes, their features fused for the answer.

The recipe is ED-ViT's (arXiv 2410.11650), with closed-form compensation in place of most of its retraining,
distillation from the whole for the rest, and an exact placement on devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.files import check_output
from edgevit.graph.devices import check_device
from edgevit.graph.program import Program
from edgevit.pruning.assignment import Device, read_devices
from edgevit.pruning.candidates import compared, fused, groupings_of, pruned, task_of, trained
from edgevit.pruning.control import control_of
from edgevit.pruning.dataset import Images, Labels, check_classes
from edgevit.pruning.heads import OTHER, with_classes, with_features
from edgevit.pruning.options import Grouping, SplitOptions
from edgevit.pruning.prune import check_program
from edgevit.pruning.split import CONTROL_FILE, FUSION, MANIFEST, Manifest
from edgevit.pruning.workers import Parallel
from edgevit.pruning.workplace import Workplace, run_of
from edgevit.pruning.writing import Draft, Finish, part_file, write_split

# Of each image, where parts learn from changed ones: what the fusion learns from besides.
_VIEWS = 2


@dataclass(frozen=True)
class SplitResult:
    """What was written.

    Attributes:
        folder: `edgevit.pruning.split.read_split` reads it.
        manifest: everything that was measured; it is in the folder too.
    """

    folder: Path
    manifest: Manifest


def split_classes(
    program: Program | str | Path,
    images: Images,
    labels: Sequence[int] | Labels,
    *,
    output: str | Path,
    parts: int | None = None,
    devices: Sequence[Device] | str | Path | None = None,
    keep: float | None = None,
    grouping: Grouping = "best",
    epochs: int = 0,
    seed: int = 0,
    torch_device: str = "cpu",
    parallel: Parallel = "local",
    workers: int | None = None,
    force: bool = False,
) -> SplitResult:
    """Split a classifier by its classes into sub-models for several devices.

    A part of the images is held out. The classes are divided into subsets; for each the program is told to
    answer for these and one more class, all others, is pruned on images of both to be within its budget,
    and is trained to answer as the whole does, where there are epochs. A small network that reads features
    of all parts is trained to give the answer, some of the parts left out at random: a device that is lost
    costs accuracy and nothing else. Beside the parts stands the control: one model in eight bits that tells
    all classes apart, made in the same way at no more than the costs of the costliest part. With `grouping`
    "best" parts are pruned for both groupings, and the one whose fusion is better on a quarter of the images
    learned from goes on: twice the pruning, once the training. An interrupted call, repeated, goes on behind
    the parts that were finished.

    Args:
        program: a float classifier with a dynamic batch, or its ``.pt2``.
        images: (n, channels, height, width) float16 or float32, prepared as its card says; it may be mapped
            from a file.
        labels: (n,) the class of each; two images at least for every class.
        output: the folder to write.
        parts: how many sub-models; either this or `devices`.
        devices: one sub-model for each; or the YAML file that describes them.
        keep: share of the whole's multiply-accumulates and bytes that a part may have at most; by default
            1 / parts, or a half for one part.
        grouping: "best", "random" or "confusion".
        epochs: of training with distillation; with 0 only the fusion is trained.
        seed: of everything drawn by chance.
        torch_device: where torch runs and trains, "cpu" or "cuda".
        parallel: "local" or "ray". The same parts, to the bit, where each has the same number of threads.
        workers: processes on this machine; by default as many as torch has threads.
        force: replace what is there.

    Raises:
        EdgevitError: when anything cannot be used, or a budget cannot be met.
    """
    options = SplitOptions(
        parts=parts,
        devices=_devices(devices),
        keep=keep,
        grouping=grouping,
        epochs=epochs,
        seed=seed,
        torch_device=torch_device,
        parallel=parallel,
        workers=workers,
    )
    program = program if isinstance(program, Program) else Program.load(program)
    check_split(program, options, Path(output), force=force)
    return split_with(program, images, np.asarray(labels, dtype=np.int64), Path(output), options)


def check_split(program: Program, options: SplitOptions, output: Path, *, force: bool) -> None:
    """Refuse what can be refused before images are read.

    Raises:
        EdgevitError: when the program cannot be split so, or the output is in the way.
    """
    names = [MANIFEST, FUSION, CONTROL_FILE, *(part_file(place) for place in range(options.count))]
    check_output(output, names=names, force=force)
    check_device(options.torch_device)
    check_program(program)
    classes, option = program.num_classes, "--parts" if options.devices is None else "--devices"
    if options.count > classes:
        raise EdgevitError(
            f"{option}: {options.count} sub-models of {program.card.name}, which tells {classes} classes "
            f"apart; 1 to {classes} are possible"
        )
    with_features(program)
    if options.count > 1 and OTHER in (program.card.labels or ()):
        with_classes(program, [(program.card.labels or ()).index(OTHER)])
    # Refuses what cannot be.
    _ = options.crew, options.training


def split_with(
    program: Program,
    images: Images,
    labels: Labels,
    output: Path,
    options: SplitOptions,
    *,
    finish: Finish | None = None,
) -> SplitResult:
    """`split_classes` after `check_split`.

    Args:
        program: as there.
        images: as there.
        labels: as there.
        output: as there.
        options: how to split.
        finish: writes what else belongs to the result into the folder that becomes it.

    Raises:
        EdgevitError: as there.
    """
    _check_images(program, images, labels)
    place = Workplace.beside(output)
    with place.kept_when_interrupted(run_of(program, images, labels, options.decisive)):
        task = task_of(program, images, labels, options, place)
        candidates = pruned(task, groupings_of(task))
        accuracies = (
            {one.grouping: compared(task, one) for one in candidates} if len(candidates) > 1 else None
        )
        # Of equals the first, which is random as published.
        best = max(candidates, key=lambda one: (accuracies or {}).get(one.grouping, 0.0))
        chosen = trained(task, best) if options.epochs else best
        views = _VIEWS if options.training.changes else 0
        fusion = fused(task, chosen, task.learned, views=views)
        split = Draft(chosen, fusion, control_of(task, chosen), accuracies)
        return SplitResult(output, write_split(task, split, output, finish))


def _devices(devices: Sequence[Device] | str | Path | None) -> tuple[Device, ...] | None:
    if devices is None:
        return None
    return read_devices(devices) if isinstance(devices, str | Path) else tuple(devices)


def _check_images(program: Program, images: Images, labels: Labels) -> None:
    shape, name = tuple(program.input_shape[1:]), program.card.name
    if images.shape[1:] != shape or labels.shape != images.shape[:1]:
        raise EdgevitError(
            f"images: they are {images.shape} with {labels.shape} labels; {name} takes (n, "
            f"{', '.join(map(str, shape))}), and one label for each"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < program.num_classes:
        raise EdgevitError(
            f"labels: they go from {labels.min()} to {labels.max()}; {name} tells {program.num_classes} "
            "classes apart"
        )
    check_classes(program, labels)
