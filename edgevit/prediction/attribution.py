"""From what was timed - operators, or pieces of several - to times of operators that add up to the whole.

Timed apart, a piece costs what it does in the model, and besides what calling it costs, and bringing its
input to the caches, where in the model the operator before it has just put it. Both are fitted over all
artefacts: what the pieces take together more than the whole. What is left over after that is spread in
proportion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.prediction.operations import Operation, Timed, representative
from edgevit.prediction.regression import relative_least_squares

# However much is taken off a piece, so much of its time is its own.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Piece:
    """What was timed at once.

    Attributes:
        operations: in it, one at least.
        microseconds: of one run.
        entering: bytes that it is given; 0 where it was timed inside the model.
    """

    operations: tuple[Operation, ...]
    microseconds: float
    entering: int = 0


@dataclass(frozen=True)
class Run:
    """An artefact that was timed, whole and in pieces.

    Attributes:
        model: its name.
        family: models that share shapes.
        precision: "fp32" or "int8".
        whole_us: microseconds of one run.
        pieces: all of it.
    """

    model: str
    family: str
    precision: str
    whole_us: float
    pieces: tuple[Piece, ...]

    @property
    def operations(self) -> list[Operation]:
        """Those of all pieces."""
        return [operation for piece in self.pieces for operation in piece.operations]


def attribute(runs: Sequence[Run]) -> list[Timed]:
    """The times of the operations of all runs; what occurs several times is there once, with its mean.

    Args:
        runs: of one runtime.
    """
    overhead = _overhead(runs)
    settled = [piece for run in runs for piece in _settled(run, overhead)]
    of = [run.family for run in runs for _ in run.pieces]
    rates = _rates(settled)
    found: dict[Operation, list[tuple[float, str]]] = defaultdict(list)
    for piece, family in zip(settled, of, strict=True):
        shares = np.array([_rate(rates, operation) for operation in piece.operations])
        for operation, share in zip(piece.operations, shares / shares.sum(), strict=True):
            found[operation].append((piece.microseconds * share, family))
    kinds: dict[str, list[Timed]] = defaultdict(list)
    for operation, times in found.items():
        families = frozenset(family for _, family in times)
        kinds[operation.kind].append(Timed(operation, float(np.mean([us for us, _ in times])), families))
    return [timed for alike in kinds.values() for timed in representative(alike)]


def _overhead(runs: Sequence[Run]) -> tuple[float, float]:
    """Microseconds that each piece costs more apart, and for each byte that it is given."""
    from scipy.optimize import nnls

    counts = [(len(run.pieces), sum(piece.entering for piece in run.pieces)) for run in runs]
    wholes = np.array([run.whole_us for run in runs])
    excess = np.array([sum(piece.microseconds for piece in run.pieces) for run in runs]) - wholes
    columns = np.array(counts, dtype=np.float64)
    scale = np.maximum(columns.max(axis=0), 1.0)
    found, _ = nnls(columns / scale / wholes[:, None], excess / wholes)
    each, byte = found / scale
    return float(each), float(byte)


def _settled(run: Run, overhead: tuple[float, float]) -> list[Piece]:
    """The pieces with what they take in the model."""
    each, byte = overhead
    left = [
        max(piece.microseconds - each - byte * piece.entering, _LEAST_SHARE * piece.microseconds)
        for piece in run.pieces
    ]
    scale = run.whole_us / sum(left)
    return [
        Piece(piece.operations, scale * time, piece.entering)
        for piece, time in zip(run.pieces, left, strict=True)
    ]


def _rates(pieces: Sequence[Piece]) -> dict[str, tuple[float, float]]:
    """For the kinds of pieces of several: microseconds of one operation, and for each byte it moves."""
    several = [piece for piece in pieces if len(piece.operations) > 1]
    kinds = sorted({operation.kind for piece in several for operation in piece.operations})
    if not kinds:
        return {}
    place = {kind: 2 * number for number, kind in enumerate(kinds)}
    alike = [piece for piece in pieces if all(operation.kind in place for operation in piece.operations)]
    columns = np.zeros((len(alike), 2 * len(kinds)))
    for row, piece in zip(columns, alike, strict=True):
        for operation in piece.operations:
            row[place[operation.kind]] += 1
            row[place[operation.kind] + 1] += operation.read + operation.written
    times = np.array([piece.microseconds for piece in alike])
    rates = relative_least_squares(columns, times)
    return {kind: (float(rates[at]), float(rates[at + 1])) for kind, at in place.items()}


def _rate(rates: dict[str, tuple[float, float]], operation: Operation) -> float:
    each, byte = rates.get(operation.kind, (1.0, 0.0))
    # Something, however little: it is there.
    return max(each + byte * (operation.read + operation.written), 1e-3)
