"""Times of the operations of many artefacts, each once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.prediction.operations import Operation, Timed, representative


@dataclass(frozen=True)
class Run:
    """An artefact that was timed, whole and by operators.

    Attributes:
        model: its name.
        family: models that share shapes.
        precision: "fp32" or "int8".
        whole_us: microseconds of one run.
        operations: all of it.
        times: microseconds of those that a time can be told of; with the others they add up to the whole.
    """

    model: str
    family: str
    precision: str
    whole_us: float
    operations: tuple[Operation, ...]
    times: tuple[tuple[Operation, float], ...]


def attribute(runs: Sequence[Run]) -> list[Timed]:
    """The times of the operations of all runs; what occurs several times is there once, with its mean.

    Args:
        runs: of one runtime.
    """
    found: dict[Operation, list[tuple[float, str]]] = defaultdict(list)
    for run in runs:
        for operation, us in run.times:
            found[operation].append((us, run.family))
    kinds: dict[str, list[Timed]] = defaultdict(list)
    for operation, times in found.items():
        families = frozenset(family for _, family in times)
        kinds[operation.kind].append(Timed(operation, float(np.mean([us for us, _ in times])), families))
    return [timed for alike in kinds.values() for timed in representative(alike)]
