"""Submodels in files: nested Programs made or trained, and one of their submodels taken out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.files import check_output, resumable, staged_folder
from edgevit.graph.axes import Role
from edgevit.graph.costs import count_macs
from edgevit.graph.devices import check_device
from edgevit.graph.program import Array, Program
from edgevit.images import ImageFolder, ImageReader, OnBadImage, open_folder
from edgevit.progress import track
from edgevit.pruning.compensation import FEWEST_IMAGES
from edgevit.pruning.dataset import Labels, check_classes, held_out, read_labelled
from edgevit.pruning.loop import TrainingOptions
from edgevit.submodels.branches import Replacement
from edgevit.submodels.consistency import Reference
from edgevit.submodels.elastic import DEFAULT_ROLES, SHARES, elastic, widths_of
from edgevit.submodels.extraction import extract, masked, refitted
from edgevit.submodels.nesting import Widths, nesting_of
from edgevit.submodels.slices import Slice, Slices, read_slices, slices_beside, weights_of
from edgevit.submodels.training import NestedOptions, train_nested
from edgevit.submodels.widths import parse_widths

# Images, other than those that layers are fitted with, on which slices are compared with their parent.
_JUDGED = 256
# Of the images, when they are trained on as well.
_HELD_OUT = 0.1
_ALL = sys.maxsize
# Of the largest logit: what two orders of the same sum may differ by.
_SAME = 1e-4
_CHECKED = 4


@dataclass(frozen=True)
class MeasuredNested:
    """What `elastic_folder` or `train_nested_folder` made.

    Attributes:
        path: of the nested Program.
        slices: what was measured of its uniform submodels.
        program: the same as at `path`.
    """

    path: Path
    slices: Slices
    program: Program


@dataclass(frozen=True)
class Submodel:
    """What `extract_file` made.

    Attributes:
        path: of the submodel.
        program: the same.
        parameters: trainable values of the parent and of the submodel.
        macs: multiply-accumulates for one image, likewise.
    """

    path: Path
    program: Program
    parameters: tuple[int, int]
    macs: tuple[int, int]


def elastic_folder(
    program: Program | str | Path,
    *,
    calib: str | Path,
    output: str | Path,
    roles: Collection[Role] = DEFAULT_ROLES,
    shares: Sequence[float] = SHARES,
    replacements: Collection[Replacement] = (),
    images: int = 256,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> MeasuredNested:
    """Make a Program elastic with the images of a folder, and measure its uniform submodels on others.

    Args:
        program: a float Program, or its ``.pt2``.
        calib: a folder of images; where it has labels, accuracy is measured as well. Where it has no more
            images than layers are fitted with, these are measured on.
        output: the ``.pt2`` file to write; slices are written beside it, as ``.slices.yaml``.
        roles: of the axes that may be narrower.
        shares: of the units of an axis, at which it is nested.
        replacements: of residual branches: "skip", "linear".
        images: of the folder, drawn by chance, to fit layers with.
        seed: of what is drawn.
        on_bad_image: "fail" or "skip".
        force: replace what is there.

    Raises:
        EdgevitError: when anything cannot be used.
    """
    path = output_at(output, slices_beside, force=force)
    program = program if isinstance(program, Program) else Program.load(program)
    folder = open_folder(calib, num_classes=program.num_classes, class_names=program.card.labels)
    if images < FEWEST_IMAGES:
        raise EdgevitError(f"--images: {images} are too few to fit layers with; {FEWEST_IMAGES} at least")
    drawn = folder.sample(min(images, len(folder)), seed)
    read = ImageReader(drawn, program.card.preprocessing, on_bad_image=on_bad_image).read_all()
    made = elastic(program, read, roles=roles, shares=shares, replacements=replacements, seed=seed).program
    others = folder.without(drawn).sample(_JUDGED, seed)
    judged, labels = _labelled(program, others if len(others) else drawn, on_bad_image)
    slices = _slices(made, shares, Reference.of(made, judged, labels))
    _write(path, made, slices)
    return MeasuredNested(path, slices, made)


def output_at(output: str | Path, *beside: Callable[[Path], Path], force: bool) -> Path:
    """Where a Program may be written, with files whose names follow from its own."""
    path = Path(output)
    if path.suffix != ".pt2":
        raise EdgevitError(f"--output: {path} must end in .pt2")
    for file in (path, *(named(path) for named in beside)):
        check_output(file, force=force)
    return path


def _write(path: Path, program: Program, slices: Slices) -> None:
    with staged_folder(path.parent) as stage:
        program.save(stage / path.name)
        slices.write(slices_beside(stage / path.name))


def _labelled(program: Program, folder: ImageFolder, on_bad_image: OnBadImage) -> tuple[Array, Labels | None]:
    batches = list(ImageReader(folder, program.card.preprocessing, on_bad_image=on_bad_image))
    labels = None if folder.labels is None else [label for batch in batches for label in batch.labels or ()]
    images = np.concatenate([batch.images for batch in batches])
    return images, None if labels is None else np.asarray(labels, dtype=np.int64)


def _slices(parent: Program, shares: Sequence[float], reference: Reference) -> Slices:
    """One for each share of the units of all axes."""
    nesting = nesting_of(parent)
    found = []
    for share in track(sorted({*shares, 1.0}), "measuring slices", len({*shares, 1.0})):
        widths = {name: widths_of(allowed[-1], (share,))[0] for name, allowed in nesting.widths.items()}
        small = extract(parent, widths)
        found.append(
            Slice(
                name=f"{share:g}" if share < 1 else "1.0",
                widths=widths,
                parameters=small.parameter_count,
                macs=count_macs(small),
                **asdict(reference.consistency(small)),
            )
        )
    return Slices(parent=weights_of(parent), images=len(reference.images), slices=tuple(found))


def train_nested_folder(
    program: Program,
    *,
    data: str | Path,
    output: str | Path,
    nested: NestedOptions | None = None,
    options: TrainingOptions | None = None,
    images: int | None = None,
    torch_device: str = "cpu",
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> MeasuredNested:
    """Train a Program to be nested with the images of a folder, and measure its submodels on a tenth of them.

    What is interrupted leaves ``OUTPUT.training``; the same call goes on behind the last finished epoch.

    Args:
        program: a float Program with a dynamic batch.
        data: a folder of labelled images.
        output: the ``.pt2`` file to write; slices are written beside it, as ``.slices.yaml``.
        nested: at which widths, and how.
        options: rates and lengths.
        images: of the folder, drawn by chance; None for all.
        torch_device: where torch trains.
        on_bad_image: "fail" or "skip".
        force: replace what is there.

    Raises:
        EdgevitError: when anything cannot be used.
    """
    nested, options = nested or NestedOptions(), options or TrainingOptions()
    path = output_at(output, slices_beside, force=force)
    check_device(torch_device)
    read, labels = read_labelled(
        program, data, count=images or _ALL, seed=options.seed, on_bad_image=on_bad_image
    )
    check_classes(program, labels)
    learned, judged = held_out(labels, _HELD_OUT, options.seed)
    checkpoint = path.with_name(f"{path.name}.training")
    resumable.append(checkpoint)
    try:
        made = train_nested(
            program,
            torch.from_numpy(read[learned]),
            torch.from_numpy(labels[learned]),
            nested=nested,
            options=options,
            checkpoint=checkpoint,
            torch_device=torch_device,
        )
    finally:
        resumable.remove(checkpoint)
    reference = Reference.of(made, read[judged].astype(np.float32), labels[judged])
    slices = _slices(made, nested.shares, reference)
    _write(path, made, slices)
    return MeasuredNested(path, slices, made)


def extract_file(
    program: Program | str | Path,
    submodel: str,
    *,
    output: str | Path,
    slices: str | Path | None = None,
    calib: str | Path | None = None,
    images: int = 256,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    force: bool = False,
) -> Submodel:
    """Take a submodel out of a nested Program, and check that it computes what its parent does.

    With images its layers are then fitted to this very submodel (`edgevit.submodels.extraction.refitted`).

    Args:
        program: a nested Program, or its ``.pt2``.
        submodel: the name of a slice, or widths (`edgevit.submodels.widths.parse_widths`).
        output: the ``.pt2`` file to write.
        slices: the file that has the name; None for the one beside the Program's file.
        calib: a folder of images to fit layers with; None leaves them as the nested Program has them.
        images: of the folder, drawn by chance.
        seed: of the draw.
        on_bad_image: "fail" or "skip".
        force: replace what is there.

    Raises:
        EdgevitError: when the Program is not nested, or has no such submodel.
    """
    path = output_at(output, force=force)
    beside = None if isinstance(program, Program) else slices_beside(Path(program))
    parent = program if isinstance(program, Program) else Program.load(program)
    nesting = nesting_of(parent)
    named = None
    if slices is not None or (beside is not None and beside.exists()):
        named = read_slices(Path(slices) if slices is not None else beside, parent).named(submodel)  # type: ignore[arg-type]
    widths = dict(named.widths) if named is not None else parse_widths(submodel, nesting)
    small = extract(parent, widths)
    check_equal(parent, small, widths)
    if calib is not None:
        read = drawn_from(small, calib, images, seed, on_bad_image)
        small = refitted(parent, widths, torch.from_numpy(read))
    small.save(path, force=force)
    return Submodel(
        path=path,
        program=small,
        parameters=(parent.parameter_count, small.parameter_count),
        macs=(count_macs(parent), count_macs(small)),
    )


def drawn_from(
    program: Program, calib: str | Path, images: int, seed: int, on_bad_image: OnBadImage
) -> Array:
    """Images to fit layers with."""
    if images < FEWEST_IMAGES:
        raise EdgevitError(f"--images: {images} are too few to fit layers with; {FEWEST_IMAGES} at least")
    folder = open_folder(calib, num_classes=program.num_classes, class_names=program.card.labels)
    drawn = folder.sample(min(images, len(folder)), seed)
    return ImageReader(drawn, program.card.preprocessing, on_bad_image=on_bad_image).read_all()


def check_equal(parent: Program, small: Program, widths: Widths) -> None:
    """A submodel gives what its parent gives with everything zero that it lacks; anything else is a bug."""
    noise = np.random.default_rng(0).standard_normal((_CHECKED, *(int(n) for n in parent.input_shape[1:])))
    images = noise.astype(np.float32)
    expected, found = (one.run(images)[0] for one in (masked(parent, widths), small))
    if not np.abs(found - expected).max() <= _SAME * np.abs(expected).max():
        raise AssertionError(f"the submodel of {parent.card.name} does not compute what its parent does")


def summary(result: MeasuredNested | Submodel) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    if isinstance(result, Submodel):
        return {
            "version": 1,
            "program": result.path.name,
            "parameters": result.parameters,
            "macs": result.macs,
        }
    return {"version": 1, "program": result.path.name, **result.slices.model_dump(exclude={"version"})}
