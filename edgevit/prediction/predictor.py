"""Times of operations that were never measured, from those of their kind that were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from edgevit.prediction.operations import Operation, Timed, representative
from edgevit.prediction.regression import Curve, fit


class Predictor:
    """Times of operations on one device, in one runtime.

    Args:
        timed: those measured there, one at least.
    """

    def __init__(self, timed: Sequence[Timed]) -> None:
        by_kind: dict[str, list[Timed]] = defaultdict(list)
        by_sort: dict[bool, list[Timed]] = defaultdict(list)
        for one in timed:
            by_kind[one.operation.kind].append(one)
            by_sort[one.operation.macs > 0].append(one)
        self._curves = {kind: fit(alike) for kind, alike in by_kind.items()}
        self._by_sort = by_sort
        self._sorts: dict[bool, Curve] = {}

    def knows(self, operation: Operation) -> bool:
        """Whether any operation of its kind was measured."""
        return operation.kind in self._curves

    def times(self, operations: Sequence[Operation]) -> list[float]:
        """Microseconds of each."""
        groups: dict[int, list[int]] = defaultdict(list)
        curves: dict[int, Curve] = {}
        for place, operation in enumerate(operations):
            curve = self._curve(operation)
            curves[id(curve)] = curve
            groups[id(curve)].append(place)
        times = np.zeros(len(operations))
        for key, places in groups.items():
            times[places] = curves[key]([operations[place].features for place in places])
        return [float(time) for time in times]

    def _curve(self, operation: Operation) -> Curve:
        """Of its kind; where none of it was measured, of all that multiply, or of all that do not."""
        if operation.kind in self._curves:
            return self._curves[operation.kind]
        multiplies = operation.macs > 0
        if multiplies not in self._by_sort:
            multiplies = not multiplies
        if multiplies not in self._sorts:
            self._sorts[multiplies] = fit(representative(self._by_sort[multiplies]))
        return self._sorts[multiplies]
