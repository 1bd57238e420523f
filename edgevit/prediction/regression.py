"""Times of operators of one kind: a roofline fitted to those measured, and what is left of it interpolated.

The roofline (Williams, Waterman, Patterson, 2009) is a sum here rather than a maximum: microseconds are a
fixed cost, and so much for each multiply-accumulate and for each byte read, written and of weights. None of
these is negative, so that more of anything never takes less time. What a kernel makes of a shape - how well
tiles fit it, whether it stays in a cache - is left over, and alike for shapes that are alike: the logarithm
of measured over fitted time is a Gaussian process over the logarithms of the numbers (Rasmussen, Williams,
2006, chapter 2), whose leave-one-out predictions (chapter 5.4.2) choose its scale and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevit.prediction.operations import Timed

Array = npt.NDArray[np.float64]

# Fewer measured shapes than this say nothing about what is left of a roofline.
_FEWEST = 4
# Of the process: how far shapes may differ, as a ratio's logarithm, and still be alike; how much of the
# leftover is noise.
_LENGTHS = (0.5, 1.0, 2.0)
_NOISES = (0.02, 0.1, 0.3, 1.0)
# A time below a tenth of a microsecond is none.
_LEAST_US = 0.1


@dataclass(frozen=True)
class Curve:
    """Times of one kind.

    Attributes:
        roofline: microseconds of one, and for each of the numbers that are work of its own.
        known: (shapes, numbers), logarithms of the numbers of those measured.
        pull: (shapes,), what each adds to the logarithm of the fitted time of one that is like it.
        length: how far shapes may differ and still be alike.
    """

    roofline: Array
    known: Array
    pull: Array
    length: float

    def __call__(self, features: Sequence[Sequence[float]]) -> Array:
        """Microseconds of operations, by their numbers."""
        given = np.asarray(features, dtype=np.float64)
        leftover = _likeness(np.log1p(given), self.known, self.length) @ self.pull
        times: Array = _on(self.roofline, given) * np.exp(leftover)
        return times


def fit(timed: Sequence[Timed]) -> Curve:
    """Fit the times of one kind.

    Args:
        timed: not empty.
    """
    features = np.array([one.operation.features for one in timed])
    times = np.maximum([one.microseconds for one in timed], _LEAST_US)
    roofline = _fit_roofline(features, times)
    leftover = np.log(times / _on(roofline, features))
    known = np.log1p(features)
    length, pull = _fit_process(known, leftover) if len(timed) >= _FEWEST else (1.0, np.zeros(len(timed)))
    return Curve(roofline, known, pull, length)


def _on(roofline: Array, features: Array) -> Array:
    times: Array = np.maximum(roofline[0] + features[:, :-1] @ roofline[1:], _LEAST_US)
    return times


def _fit_roofline(features: Array, times: Array) -> Array:
    return relative_least_squares(np.column_stack([np.ones(len(times)), features[:, :-1]]), times)


def relative_least_squares(columns: Array, times: Array) -> Array:
    """What each column costs for one of it, never less than nothing; errors count relative to the time.

    Args:
        columns: (observations, numbers); one that is 0 throughout costs nothing.
        times: (observations,), positive.
    """
    from scipy.optimize import nnls

    scale = np.maximum(columns.max(axis=0), 1.0)
    found, _ = nnls(columns / scale / times[:, None], np.ones(len(times)))
    costs: Array = found / scale
    return costs


def _likeness(one: Array, other: Array, length: float) -> Array:
    squares = ((one[:, None] - other[None]) ** 2).sum(axis=-1)
    likeness: Array = np.exp(-squares / (2 * length**2))
    return likeness


def _fit_process(known: Array, leftover: Array) -> tuple[float, Array]:
    """The length, and the pull of each shape, whose leave-one-out predictions miss least."""
    found = []
    for length in _LENGTHS:
        values, vectors = np.linalg.eigh(_likeness(known, known, length))
        seen = vectors.T @ leftover
        for noise in _NOISES:
            # Of the inverse of likeness plus noise, without inverting it for each noise.
            shrunk = 1 / (np.maximum(values, 0.0) + noise)
            pull = vectors @ (shrunk * seen)
            misses = pull / (np.square(vectors) @ shrunk)
            found.append((float(np.square(misses).sum()), length, pull))
    _, length, pull = min(found, key=lambda item: item[0])
    return length, pull
