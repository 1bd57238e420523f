"""Labelled images that are many: read once, stored as float16, run batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgevit.errors import EdgevitError
from edgevit.graph.devices import moved
from edgevit.graph.program import Program
from edgevit.graph.running import BATCH
from edgevit.images import ImageReader, OnBadImage, open_folder
from edgevit.progress import track

# (n, channels, height, width), float16 or float32, in memory or in a file that is mapped.
Images = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


def read_labelled(
    program: Program,
    data: str | Path,
    *,
    count: int,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
) -> tuple[Images, Labels]:
    """Images of a folder, drawn by chance, prepared as a Program's card says.

    Args:
        program: what they are for.
        data: a folder with labels.
        count: how many to draw; fewer are there, all.
        seed: of the draw.
        on_bad_image: "fail" or "skip".

    Returns:
        (n, channels, height, width) float16, half the memory of what a Program takes, and the class of each.

    Raises:
        EdgevitError: when the folder has no labels, other classes, or no image that could be used.
    """
    folder = open_folder(data, num_classes=program.num_classes, class_names=program.card.labels)
    folder.require_labels()
    folder = folder.sample(min(count, len(folder)), seed)
    preprocessing = program.card.preprocessing
    images = np.empty((len(folder), *preprocessing.input_shape), dtype=np.float16)
    labels: list[int] = []
    for batch in ImageReader(folder, preprocessing, on_bad_image=on_bad_image):
        images[len(labels) : len(labels) + len(batch.images)] = batch.images
        labels.extend(batch.labels or ())
    if not labels:
        raise EdgevitError(f"--data: none of the {len(folder)} images in {folder.root} could be used")
    return images[: len(labels)], np.asarray(labels, dtype=np.int64)


def check_classes(program: Program, labels: Labels) -> None:
    """Refuse images of which some class has less than one to learn from and one to judge by.

    Raises:
        EdgevitError: naming the first class.
    """
    counts = np.bincount(labels, minlength=program.num_classes)
    if counts.min() < 2:
        label = int(counts.argmin())
        known = "" if program.card.labels is None else f" ({program.card.labels[label]})"
        number = "no image" if counts[label] == 0 else "one image"
        raise EdgevitError(
            f"--data: class {label}{known} has {number} among the {len(labels)} that are used; two at least "
            "are needed, one to learn from and one to judge by"
        )


def held_out(labels: Labels, share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of images to learn from and of images to judge by, of every class both.

    Args:
        labels: the class of each; every class has two images at least.
        share: of each class that is judged by, rounded, and one image at least.
        seed: of the draw.

    Returns:
        Both in ascending order.
    """
    rng = np.random.default_rng(seed)
    judged = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(own))), len(own) - 1)
        judged.append(rng.choice(own, size=count, replace=False))
    judging = np.sort(np.concatenate(judged))
    return np.setdiff1d(np.arange(len(labels)), judging), judging


def outputs_of(
    program: Program,
    images: Images,
    *,
    torch_device: str = "cpu",
    changed: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """What a Program gives for images: of each output one float32 tensor, the first dimension n.

    Only a batch of the images is in memory as float32 at a time.

    Args:
        program: with a dynamic batch.
        images: any number of them, not none.
        torch_device: where they are run; the results are on the processor.
        changed: what is done to each batch of them, in order, before; None for nothing.
    """
    module = moved(program, torch_device).module
    parts: list[tuple[Tensor, ...]] = []
    starts = range(0, len(images), BATCH)
    with torch.no_grad():
        for start in track(starts, f"running {program.card.name}", len(starts)):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH], dtype=np.float32))
            batch = batch.to(torch_device)
            results = module(batch if changed is None else changed(batch))
            results = results if isinstance(results, tuple | list) else (results,)
            parts.append(tuple(result.float().cpu() for result in results))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
