"""How far predictions are off: each model from the operators of the other families alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgevit.prediction.attribution import Run, attribute
from edgevit.prediction.predictor import Predictor
from edgevit.prediction.reference import ASSORTED


def left_out(runs: Sequence[Run]) -> Iterator[tuple[Run, float]]:
    """Runs with the microseconds that the others would have predicted; none where there are no others.

    Args:
        runs: in one runtime. What is of no family is never left out.
    """
    for family in sorted({run.family for run in runs} - {ASSORTED}):
        others = [run for run in runs if run.family != family]
        if others:
            predictor = Predictor(attribute(others))
            for run in runs:
                if run.family == family:
                    yield run, sum(predictor.times(run.operations))
