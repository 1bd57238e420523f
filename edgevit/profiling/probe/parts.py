"""An artefact timed whole and in parts, in turns with another that tells how fast the device is just now."""

from __future__ import annotations

import time
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

from .operators import Runner, middle_mean, settled_us
from .runtimes import RUNTIMES, clock_of, open_litert

_ROUNDS, _LEAST_ROUNDS = 60, 12


def time_in_parts(options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Microseconds of an artefact, of its parts, and of the pace.

    Args:
        options: of the artefact; ``pace``, an artefact that takes turns with it.
        threads: of the runtime.

    Returns:
        ``runtime``, ``whole_us``, ``pace_us``; of ONNX Runtime ``operators`` and ``shapes``, of LiteRT ``us``
        of each piece.
    """
    opened = RUNTIMES[options["runtime"]]
    pace = opened({**options, "artefact": options["pace"]}, threads).run
    whole = opened(options, threads)
    if options["runtime"] == "litert":
        timed = _time_pieces(options, threads, whole.run, pace)
    else:
        timed = whole.operators(pace)
    return {**timed, "runtime": whole.facts["runtime"]}


def _time_pieces(options: dict[str, Any], threads: int, whole: Runner, pace: Runner) -> dict[str, Any]:
    """The pieces of a LiteRT file, which say what its interpreter does not: how long which operators take.

    They run in the order of the model, one round after another: when a piece has its turn, the others have
    taken its weights out of the caches, as they do in the model.
    """
    clock = clock_of(threads)
    runs = [open_litert({**options, "artefact": piece}, threads).run for piece in options["pieces"]]
    alone: list[float] = []
    paces: list[float] = []
    apart: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    while len(alone) < _LEAST_ROUNDS or (
        len(alone) < _ROUNDS and time.perf_counter() - started < options["seconds"]
    ):
        paces.append(settled_us(pace, clock))
        alone.append(settled_us(whole, clock))
        for run, taken in zip(runs, apart):  # noqa: B905 - Python 3.8
            taken.append(_microseconds(run, clock))
    return {
        "whole_us": middle_mean(alone),
        "pace_us": middle_mean(paces),
        "us": [middle_mean(taken) for taken in apart],
    }


def _microseconds(run: Runner, clock: Callable[[], int]) -> float:
    before = clock()
    run()
    return (clock() - before) / 1e3
