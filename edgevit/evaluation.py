"""Accuracy of anything that runs prepared images: a Program in torch, or an artefact in its runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.graph.card import Card
from edgevit.images import ImageFolder, ImageReader, OnBadImage

Array = npt.NDArray[np.float32]


class Runnable(Protocol):
    """What can be evaluated and compared."""

    @property
    def card(self) -> Card:
        """How its images are prepared and its outputs named."""

    @property
    def runtime(self) -> str:
        """What executes it, with its version where that matters."""

    @property
    def num_classes(self) -> int:
        """Classes of the first output."""

    def run(self, *inputs: Array) -> list[Array]:
        """Outputs for any number of prepared images, or of what a stage takes."""


@dataclass(frozen=True)
class Mistake:
    """An image whose best class is wrong.

    Attributes:
        file: path relative to the folder.
        label: the true class.
        predicted: the class given.
        confidence: softmax probability of the class given.
        label_confidence: softmax probability of the true class.
    """

    file: str
    label: int
    predicted: int
    confidence: float
    label_confidence: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on labelled images.

    Attributes:
        top1: percent of images whose best class is right.
        top5: percent whose right class is among the best five; equal to 100 below six classes.
        n: images evaluated.
        runtime: what executed the model.
        skipped: files left out, each with its reason.
        classes: how the folder's classes were matched to the model's.
        predictions: best class per evaluated image, in folder order.
        mistakes: the wrong ones, most confident first.
    """

    top1: float
    top5: float
    n: int
    runtime: str
    skipped: tuple[str, ...]
    classes: str
    predictions: tuple[int, ...]
    mistakes: tuple[Mistake, ...]


def evaluate_runnable(
    model: Runnable, folder: ImageFolder, *, on_bad_image: OnBadImage = "fail"
) -> Evaluation:
    """Top-1 and top-5 accuracy on a labelled folder, images prepared as the model's card says.

    Raises:
        EdgevitError: when the folder has no labels, or no image could be used.
    """
    folder.require_labels()
    reader = ImageReader(
        folder,
        model.card.preprocessing,
        on_bad_image=on_bad_image,
        description=f"evaluating in {model.runtime}",
    )
    logits: list[Array] = []
    labels: list[int] = []
    indices: list[int] = []
    for batch in reader:
        logits.append(model.run(batch.images)[0])
        labels.extend(batch.labels or ())
        indices.extend(batch.indices)
    if not logits:
        raise EdgevitError(f"--data: none of the {len(folder)} images in {folder.root} could be used")
    scores, truth = np.concatenate(logits), np.asarray(labels)
    if not np.isfinite(scores).all():
        raise EdgevitError(
            f"{model.card.name} in {model.runtime} gave values that are not numbers (NaN or infinity)"
        )
    best = scores.argmax(axis=1)
    return Evaluation(
        top1=percent(best == truth),
        top5=percent(in_top(scores, truth, 5)),
        n=len(truth),
        runtime=model.runtime,
        skipped=tuple(reader.skipped),
        classes=folder.classes,
        predictions=tuple(int(index) for index in best),
        mistakes=_mistakes(folder, scores, truth, indices),
    )


def in_top(scores: Array, truth: npt.NDArray[np.int_], count: int) -> npt.NDArray[np.bool_]:
    """Whether the right class is among the `count` best; ties count in its favour by class order.

    >>> in_top(np.array([[0.1, 0.7, 0.2]]), np.array([2]), 2)
    array([ True])
    """
    own = scores[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < truth[:, None]
    ahead: npt.NDArray[np.int_] = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return ahead < count


def percent(hits: npt.NDArray[np.bool_]) -> float:
    """Share of true values, in percent."""
    return 100.0 * int(hits.sum()) / len(hits)


def softmax(logits: Array) -> Array:
    """Softmax over the last dimension."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def _mistakes(
    folder: ImageFolder, scores: Array, truth: npt.NDArray[np.int_], indices: list[int]
) -> tuple[Mistake, ...]:
    chances = softmax(scores)
    best = scores.argmax(axis=1)
    wrong = [
        Mistake(
            file=folder.files[indices[row]].relative_to(folder.root).as_posix(),
            label=int(truth[row]),
            predicted=int(best[row]),
            confidence=float(chances[row, best[row]]),
            label_confidence=float(chances[row, truth[row]]),
        )
        for row in np.flatnonzero(best != truth)
    ]
    return tuple(sorted(wrong, key=lambda mistake: -mistake.confidence))
