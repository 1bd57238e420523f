"""Things timed in turns, so that whatever else the machine does slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]
#: Gives nanoseconds.
Clock = Callable[[], int]

#: What someone who waits sees.
WALL_TIME: Clock = time.perf_counter_ns
#: What the process computed, all its threads added up. With one thread the two are equal on an idle machine,
#: and on a busy one wall time also counts the others' work.
PROCESSOR_TIME: Clock = time.process_time_ns


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the timed runs of one thing."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the runs took no longer."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter, and three quarters, of the runs took no longer."""
        first, _, third = statistics.quantiles(self.samples, n=4)
        return first, third


def time_in_turns(
    runs: Sequence[Run],
    *,
    clock: Clock,
    warm_up: int,
    rounds: int,
    seconds: float = 0.0,
    settle: bool = False,
) -> list[Timing]:
    """Time several things, one run of each a round, in an order drawn anew every round.

    Args:
        runs: what is timed; calling it is a run.
        clock: `WALL_TIME`, or `PROCESSOR_TIME` for what runs on one thread.
        warm_up: rounds before the timed ones.
        rounds: that are timed, at least.
        seconds: rounds go on until each thing was timed for so long.
        settle: begin each turn with a run that is not counted. The thing before has left the caches full of
            its own data, and a device runs one model again and again.
    """

    def turn(run: Run) -> float:
        if settle:
            run()
        started = clock()
        run()
        return (clock() - started) / 1e6

    order = np.random.default_rng(0)
    for _ in range(warm_up):
        for index in order.permutation(len(runs)):
            turn(runs[index])
    samples: list[list[float]] = [[] for _ in runs]
    while len(samples[0]) < rounds or min(map(sum, samples)) < 1000 * seconds:
        for index in order.permutation(len(runs)):
            samples[index].append(turn(runs[index]))
    return [Timing(tuple(taken)) for taken in samples]
