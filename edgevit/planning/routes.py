"""Ways through a chain: tables of what each step costs, the ways that were found, and the best few of them.

A way is a sequence of steps; each gives what lies between two nodes to a host of some kind. Nodes are in the
order of the chain; where there are several ways to send what crosses a cut, the cut has several nodes. Hosts
that are alike are one kind and a count.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]

#: Values that differ by no more than rounding are one.
ROUNDING = 1e-9


class Step(NamedTuple):
    """What lies between two nodes, on a host of a kind."""

    kind: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Sums:
    """What adds up along a way.

    Attributes:
        stage: (kinds, nodes, nodes) float64, of each step; infinite where it cannot be taken.
        move: (nodes, kinds, kinds) float64, between the step that ends at a node and the next.
    """

    stage: Costs
    move: Costs

    def of(self, steps: Sequence[Step]) -> float:
        """What a way costs."""
        stages = sum(self.stage[step] for step in steps)
        return float(stages + sum(self.move[b.start, a.kind, b.kind] for a, b in itertools.pairwise(steps)))

    def from_step(self, last: Step | None) -> Sums:
        """The rest of the way behind a step; what the move from there costs is in its first steps."""
        if last is None:
            return Sums(self.stage.copy(), self.move)
        stage = self.stage[:, last.end :, last.end :].copy()
        stage[:, 0] += self.move[last.end, last.kind, :, None]
        return Sums(stage, self.move[last.end :])


@dataclass(frozen=True, eq=False)
class Tables:
    """What each step costs, and how many of each kind may be taken.

    Attributes:
        counts: of the hosts of each kind.
        sums: what adds up along the way: the cost itself, or the load of a shared medium beside `peaks`;
            None where nothing does.
        peaks: (kinds, nodes, nodes) float64, where the costliest step is what the way costs; infinite where
            a step cannot be taken. None where `sums` is the cost.
        floor: with `peaks`, below which nothing is gained: ways that cost no more are as good as one another.
    """

    counts: tuple[int, ...]
    sums: Sums | None = None
    peaks: Costs | None = None
    floor: float = 0.0

    def cost(self, steps: Sequence[Step]) -> float:
        """What a way costs."""
        highest = -math.inf if self.peaks is None else max(float(self.peaks[step]) for step in steps)
        return highest if self.sums is None else max(highest, self.sums.of(steps))


@dataclass(frozen=True)
class Route:
    """A way from the first node to the last.

    Attributes:
        steps: in the order of the chain.
        cost: of all.
        bound: what no way can be cheaper than; `cost` where this one was proven the best.
    """

    steps: tuple[Step, ...]
    cost: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether no way is cheaper."""
        return self.cost <= self.bound + ROUNDING * abs(self.bound)


Solver = Callable[[Tables], Route | None]


@dataclass(order=True)
class _Found:
    """A way, and the class of ways whose best it is: those that begin with a prefix and do not go on so."""

    cost: float
    number: int
    route: Route = field(compare=False)
    fixed: int = field(compare=False)
    banned: frozenset[Step] = field(compare=False)


def best_few(tables: Tables, solve: Solver, count: int) -> list[Route]:
    """The cheapest ways, the cheapest first; fewer than `count` where there are no more.

    Each class of ways whose best is known is divided by the step where a way first differs from that best
    (Lawler, Management Science 18, 1972). Hosts of a kind are not told apart: exchanging two is no other way.

    Args:
        tables: what steps cost.
        solve: gives the best way, or None where there is none.
        count: how many, at most.
    """
    numbers = itertools.count()
    heap: list[_Found] = []

    def look(prefix: tuple[Step, ...], banned: frozenset[Step], floor: float) -> None:
        # None of a class is better than the best of the class that it is part of.
        route = _completed(replace(tables, floor=floor), solve, prefix, banned)
        if route is not None:
            heapq.heappush(heap, _Found(route.cost, next(numbers), route, len(prefix), banned))

    look((), frozenset(), tables.floor)
    best: list[Route] = []
    while heap and len(best) < count:
        found = heapq.heappop(heap)
        best.append(found.route)
        if len(best) == count:
            break
        steps = found.route.steps
        for place in range(found.fixed, len(steps)):
            before = found.banned if place == found.fixed else frozenset()
            look(steps[:place], before | {steps[place]}, max(found.route.bound, tables.floor))
    return best


def _completed(
    tables: Tables, solve: Solver, prefix: tuple[Step, ...], banned: frozenset[Step]
) -> Route | None:
    """The best way that begins with a prefix and goes on with none of the banned steps."""
    rest = solve(_rest(tables, prefix, banned))
    if rest is None:
        return None
    origin = prefix[-1].end if prefix else 0
    steps = (*prefix, *(Step(step.kind, step.start + origin, step.end + origin) for step in rest.steps))
    # The whole way, added up as every way is: what was found piece by piece differs by rounding.
    cost = tables.cost(steps)
    bound = cost if rest.optimal else max(rest.bound, cost - rest.cost + rest.bound)
    return Route(steps, cost, min(bound, cost))


def _rest(tables: Tables, prefix: tuple[Step, ...], banned: frozenset[Step]) -> Tables:
    used = Counter(step.kind for step in prefix)
    counts = tuple(count - used[kind] for kind, count in enumerate(tables.counts))
    last = prefix[-1] if prefix else None
    origin = 0 if last is None else last.end
    sums = None if tables.sums is None else tables.sums.from_step(last)
    if sums is not None and prefix and tables.peaks is not None:
        # A medium carries what the prefix sends as well.
        sums.stage[:, 0] += tables.sums.of(prefix) if tables.sums is not None else 0.0
    peaks = None if tables.peaks is None else tables.peaks[:, origin:, origin:].copy()
    for step in banned:
        place = step.kind, 0, step.end - origin
        if peaks is not None:
            peaks[place] = math.inf
        if sums is not None:
            sums.stage[place] = math.inf
    return replace(tables, counts=counts, sums=sums, peaks=peaks)
