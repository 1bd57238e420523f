"""Which classes each sub-model answers for: balanced subsets, at random or such that confused classes meet.

Source: class-wise splitting as in ED-ViT (arXiv 2410.11650), whose subsets are random and balanced.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError
from edgevit.evaluation import softmax

# One tuple of class indices, ascending, for each sub-model; the subsets in the order of their first class.
Subsets = tuple[tuple[int, ...], ...]
Matrix = npt.NDArray[np.floating]
# What decides which classes are together.
GroupingName = Literal["random", "confusion"]

# Searches by swaps end in different places; the best of so many is kept.
_STARTS = 16


def balanced(classes: int, parts: int, *, seed: int) -> Subsets:
    """Random subsets whose sizes differ by one at most.

    Args:
        classes: how many classes there are.
        parts: how many subsets to make.
        seed: of the choice.

    Raises:
        EdgevitError: when there are no parts, or more than classes.
    """
    _check_parts(classes, parts)
    return _subsets(_random_parts(classes, parts, np.random.default_rng(seed)))


def by_confusion(confusion: Matrix, parts: int, *, seed: int) -> Subsets:
    """Balanced subsets in which classes that are confused stay together.

    What is maximised is the confusion within subsets, both ways and without the diagonal. The search swaps
    two classes of different subsets (or moves one class from a larger subset to a smaller) while that helps,
    from several random starts; no further swap improves what it returns, though the best there is may be
    another.

    Args:
        confusion: (classes, classes), finite and not negative, as `confusion_of` gives it.
        parts: how many subsets to make.
        seed: of the starts.

    Raises:
        EdgevitError: when the matrix is no such matrix, or there are no parts, or more than classes.
    """
    affinity = _affinity(confusion)
    _check_parts(len(affinity), parts)
    rng = np.random.default_rng(seed)
    found = [_searched(affinity, _random_parts(len(affinity), parts, rng), rng) for _ in range(_STARTS)]
    return _subsets(max(found, key=lambda part_of: _within(affinity, part_of)))


def confusion_of(logits: Matrix, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Soft confusion: the mean softmax probability of class j over the images of class i, at [i, j].

    Args:
        logits: (images, classes).
        labels: (images,), the class of each image.

    Returns:
        (classes, classes) float64; every row sums to 1.

    Raises:
        EdgevitError: when the two do not fit each other, or a class has no image.
    """
    scores, truth = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise EdgevitError(
            f"labels: {tuple(truth.shape)} of them for logits {tuple(scores.shape)}; "
            "one for each row of (images, classes) is needed"
        )
    if not np.isfinite(scores).all():
        raise EdgevitError("logits: some are not numbers (NaN or infinity)")
    classes = scores.shape[1]
    if len(truth) and not 0 <= truth.min() <= truth.max() < classes:
        raise EdgevitError(
            f"labels: they go from {truth.min()} to {truth.max()}, the logits are of {classes} classes"
        )
    counts = np.bincount(truth, minlength=classes)
    if not counts.all():
        raise EdgevitError(
            f"labels: class {int(counts.argmin())} has no image; what it is confused with needs one at least"
        )
    sums = np.zeros((classes, classes))
    np.add.at(sums, truth, softmax(scores))
    return sums / counts[:, None]


def _check_parts(classes: int, parts: int) -> None:
    if not 1 <= parts <= classes:
        raise EdgevitError(f"parts: {parts} subsets of {classes} classes; 1 to {classes} are possible")


def _random_parts(classes: int, parts: int, rng: np.random.Generator) -> npt.NDArray[np.int_]:
    """The part of each class: every part as often as the others, or once less."""
    found: npt.NDArray[np.int_] = rng.permutation(np.arange(classes) % parts)
    return found


def _subsets(part_of: npt.NDArray[np.int_]) -> Subsets:
    return tuple(sorted(tuple(np.flatnonzero(part_of == part).tolist()) for part in np.unique(part_of)))


def _affinity(confusion: Matrix) -> npt.NDArray[np.float64]:
    """What two classes gain by being together: symmetric, nothing on the diagonal."""
    matrix = np.asarray(confusion, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EdgevitError(f"confusion: a matrix of (classes, classes) is needed, not {tuple(matrix.shape)}")
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise EdgevitError("confusion: every value must be a finite number of at least 0")
    affinity = matrix + matrix.T
    np.fill_diagonal(affinity, 0.0)
    return affinity


def _within(affinity: npt.NDArray[np.float64], part_of: npt.NDArray[np.int_]) -> float:
    """The affinity between classes of one part."""
    return float(affinity[part_of[:, None] == part_of].sum())


def _searched(
    affinity: npt.NDArray[np.float64], part_of: npt.NDArray[np.int_], rng: np.random.Generator
) -> npt.NDArray[np.int_]:
    """Swap two classes while that helps, until no swap does."""
    classes = len(part_of)
    affinity, part_of = _with_vacancies(affinity, part_of)
    part_of = part_of.copy()
    # What a class shares with the members of each part: (classes, parts).
    shared = affinity @ (part_of[:, None] == np.arange(part_of.max() + 1))
    # Rounding errors must not look like a gain, or two classes change places forever.
    least = 1e-12 * (1.0 + affinity.max())
    improved = True
    while improved:
        improved = False
        for one in rng.permutation(len(part_of)):
            gains = _gains(affinity, part_of, shared, one)
            other = int(gains.argmax())
            if gains[other] > least:
                moved = affinity[:, one] - affinity[:, other]
                shared[:, part_of[other]] += moved
                shared[:, part_of[one]] -= moved
                part_of[[one, other]] = part_of[[other, one]]
                improved = True
    return part_of[:classes]


def _gains(
    affinity: npt.NDArray[np.float64],
    part_of: npt.NDArray[np.int_],
    shared: npt.NDArray[np.float64],
    one: int,
) -> npt.NDArray[np.float64]:
    """What swapping a class with each other one gains; nothing within its own part."""
    here = part_of[one]
    leaving = shared[one, part_of] - shared[one, here]
    coming = shared[:, here] - shared[np.arange(len(part_of)), part_of]
    gains: npt.NDArray[np.float64] = leaving + coming - 2 * affinity[one]
    gains[part_of == here] = 0.0
    return gains


def _with_vacancies(
    affinity: npt.NDArray[np.float64], part_of: npt.NDArray[np.int_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int_]]:
    """Parts filled up to one size with classes that nothing is confused with.

    To swap a class with such a vacancy is to move it. Two vacancies in one part would let sizes differ by
    more than one: they cost more together than can be gained.
    """
    sizes = np.bincount(part_of)
    vacant = np.flatnonzero(sizes < sizes.max())
    padded = np.zeros((len(part_of) + len(vacant),) * 2)
    padded[: len(part_of), : len(part_of)] = affinity
    padded[len(part_of) :, len(part_of) :] = -1.0 - affinity.sum()
    np.fill_diagonal(padded, 0.0)
    return padded, np.concatenate([part_of, vacant])
