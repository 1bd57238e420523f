"""The way whose costliest step is cheapest: pipelines of the highest throughput, exactly.

The costliest step is one of finitely many: they are searched in halves, each time asking whether the last
node can be reached by steps that cost no more. For that, the sets of hosts are walked through, hosts of a
kind counted instead of named: 16 different ones are 65,536 sets, 50 of 5 kinds 161,051. For each set it is
usually enough to know the furthest node that it reaches; all nodes are looked at only where that leaves a
doubt, which memory and lines of different speed can do: a node further on need not be the better one to go
on from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgevit.planning.bounds import heights, may_climb, merged, reached_by_beam
from edgevit.planning.routes import Costs, Route, Step, Sums, Tables
from edgevit.planning.shortest import least_sum

#: More sets of hosts than these take minutes; then a good way is found, and how far it can be from the best.
MOST_SETS = 2**20

Nodes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def least_bottleneck(tables: Tables, most_sets: int = MOST_SETS) -> Route | None:
    """The way whose costliest step is cheapest; of fewest hosts among those that the search meets.

    Args:
        tables: with `peaks` alone.
        most_sets: of hosts that are walked through; with more the route has a bound below its cost.

    Returns:
        None where there is no way.
    """
    peaks = _peaks(tables)
    values = np.unique(peaks[np.isfinite(peaks)])
    if math.prod(count + 1 for count in tables.counts) > most_sets:
        return _within_bounds(tables, values, most_sets)
    search = _Search(tables)
    low = _first(len(values), lambda place: search.may_reach(values[place]))
    high = _first(len(values), lambda place: search.follow(values[place]) is not None, low)
    place = _first(high, lambda place: search.reach(values[place]) is not None, low)
    steps = None
    if place < len(values):
        steps = search.follow(values[place]) or search.reach(values[place])
    return None if steps is None else Route(steps, tables.cost(steps), tables.cost(steps))


def least_bottleneck_of_shared(tables: Tables) -> Route | None:
    """The same where `sums` is what all steps together load on a medium, which may be what costs most.

    Among steps up to a threshold, the way of the least load is a shortest path; the higher the threshold, the
    smaller that load: the best is where one passes the other.

    Returns:
        None where there is no way.
    """
    peaks, sums = _peaks(tables), tables.sums
    if sums is None:
        raise ValueError("no sums")
    values = np.unique(peaks[np.isfinite(peaks)])
    found: dict[int, Route | None] = {}

    def bound(place: int) -> float:
        if place not in found:
            stage = np.where(peaks <= values[place], sums.stage, np.inf)
            found[place] = least_sum(Tables(tables.counts, sums=Sums(stage, sums.move)))
        route = found[place]
        return math.inf if route is None else route.bound

    place = _first(len(values), lambda place: bound(place) <= values[place])
    bounds = [values[place]] if place < len(values) else []
    bounds += [bound(place - 1)] if place > 0 else []
    routes = [route for route in found.values() if route is not None]
    if not routes:
        return None
    best = min(routes, key=lambda route: tables.cost(route.steps))
    cost = tables.cost(best.steps)
    return Route(best.steps, cost, min(*map(float, bounds), cost))


def _peaks(tables: Tables) -> Costs:
    if tables.peaks is None:
        raise ValueError("no peaks")
    return tables.peaks


def _first(count: int, holds: Callable[[int], bool], start: int = 0) -> int:
    """The first place from `start` at which something holds that goes on holding; `count` where none is."""
    while start < count:
        middle = (start + count) // 2
        if holds(middle):
            count = middle
        else:
            start = middle + 1
    return count


def _within_bounds(tables: Tables, values: Costs, most_sets: int) -> Route | None:
    """A good way, and a bound: of an easier problem, or of what all hosts together can do."""
    peaks = _peaks(tables)
    search = _Search(merged(tables, most_sets))
    height = heights(peaks)
    low = _first(len(values), lambda place: may_climb(peaks <= values[place], tables.counts, height))
    low = _first(len(values), lambda place: search.may_reach(values[place]), low)
    found: dict[int, tuple[Step, ...]] = {}

    def reached(place: int) -> bool:
        steps = reached_by_beam(peaks <= values[place], tables.counts, height)
        if steps is not None:
            found[place] = steps
        return steps is not None

    place = _first(len(values), reached, low)
    if place == len(values):
        return None
    cost = tables.cost(found[place])
    return Route(found[place], cost, min(float(values[low]), cost))


@dataclass(frozen=True, eq=False)
class _Lattice:
    """Sets of hosts as numbers: of each kind a digit, which says how many may be used.

    Attributes:
        counts: of each kind.
    """

    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many sets there are; the last is of all hosts."""
        return math.prod(count + 1 for count in self.counts)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """By how much a set's number grows with a host of each kind."""
        return tuple(math.prod(count + 1 for count in self.counts[:kind]) for kind in range(len(self.counts)))

    @cached_property
    def levels(self) -> list[list[tuple[int, Nodes]]]:
        """By the number of hosts, from one: for each kind, the sets that have one of it."""
        digits = [
            np.arange(self.size) // stride % (count + 1)
            for stride, count in zip(self.strides, self.counts, strict=True)
        ]
        hosts = np.sum(digits, axis=0)
        order = np.argsort(hosts, kind="stable")
        bounds = np.searchsorted(hosts[order], np.arange(1, sum(self.counts) + 2))
        levels = [order[start:end] for start, end in itertools.pairwise(bounds)]
        return [[(kind, sets[digit[sets] > 0]) for kind, digit in enumerate(digits)] for sets in levels]


class _Search:
    """Whether the last node can be reached by steps that cost no more than a threshold."""

    def __init__(self, tables: Tables) -> None:
        self._peaks = _peaks(tables)
        self._lattice = _Lattice(tables.counts)
        self._last = self._peaks.shape[1] - 1

    def may_reach(self, threshold: float) -> bool:
        """Where the answer is no, there is no way: from a node, each step is taken that any before it has."""
        ahead = np.maximum.accumulate(_furthest(self._peaks <= threshold), axis=1)
        return bool(self._walk(ahead)[-1] == self._last)

    def follow(self, threshold: float) -> tuple[Step, ...] | None:
        """A way on which every set goes on from the furthest node that it reaches, or None."""
        ahead = _furthest(self._peaks <= threshold)
        reached = self._walk(ahead)
        there = np.flatnonzero(reached == self._last)
        if not len(there):
            return None
        return self._traced(
            self._fewest(there),
            self._last,
            lambda before, kind, node: reached[before] if ahead[kind, reached[before]] >= node else None,
            lambda before, node: bool(reached[before] == node),
        )

    def reach(self, threshold: float) -> tuple[Step, ...] | None:
        """A way wherever there is one: every node that a set reaches is kept."""
        allowed = self._peaks <= threshold
        reached = self._spread(allowed, self._alive(allowed))
        there = np.flatnonzero(reached[:, self._last])
        if not len(there):
            return None

        def before_step(before: int, kind: int, node: int) -> int | None:
            starts = np.flatnonzero(reached[before] & allowed[kind, :, node])
            return int(starts[0]) if len(starts) else None

        return self._traced(
            self._fewest(there), self._last, before_step, lambda before, node: bool(reached[before, node])
        )

    def _walk(self, ahead: Nodes) -> Nodes:
        """The furthest node of each set; a host may be left out."""
        ahead = np.maximum(ahead, np.arange(ahead.shape[1]))
        reached = np.zeros(self._lattice.size, dtype=np.int64)
        for level in self._lattice.levels:
            for kind, sets in level:
                found = ahead[kind][reached[sets - self._lattice.strides[kind]]]
                reached[sets] = np.maximum(reached[sets], found)
        return reached

    def _alive(self, allowed: Flags) -> Flags:
        """Sets from whose nodes the hosts that are left may still come to the end."""
        forwards = self._walk(np.maximum.accumulate(_furthest(allowed), axis=1))
        turned = allowed[:, ::-1, ::-1].transpose(0, 2, 1)
        backwards = self._walk(np.maximum.accumulate(_furthest(turned), axis=1))
        alive: Flags = forwards >= self._last - backwards[::-1]
        return alive

    def _spread(self, allowed: Flags, alive: Flags) -> Flags:
        """(sets, nodes), whether each set reaches each node."""
        reached = np.zeros((self._lattice.size, self._last + 1), dtype=bool)
        reached[:, 0] = True
        steps = allowed.astype(np.float32)
        for level in self._lattice.levels:
            for kind, sets in level:
                kept = sets[alive[sets - self._lattice.strides[kind]]]
                before = reached[kept - self._lattice.strides[kind]]
                reached[kept] |= before | (before.astype(np.float32) @ steps[kind] > 0)
        return reached

    def _fewest(self, sets: Nodes) -> int:
        """The set of fewest hosts."""
        hosts = [
            sets // stride % (count + 1)
            for stride, count in zip(self._lattice.strides, self._lattice.counts, strict=True)
        ]
        return int(sets[np.argmin(np.sum(hosts, axis=0))])

    def _traced(
        self,
        group: int,
        node: int,
        before_step: Callable[[int, int, int], int | None],
        reaches: Callable[[int, int], bool],
    ) -> tuple[Step, ...]:
        """The steps by which a set comes to a node, from what is known of smaller sets.

        Args:
            group: the set.
            node: that it reaches.
            before_step: a smaller set, a kind and a node to where a step of that kind can start, or None.
            reaches: whether a smaller set comes to a node as well.
        """
        steps: list[Step] = []
        while node > 0:
            smaller = list(self._smaller(group))
            without = next((before for before, _ in smaller if reaches(before, node)), None)
            if without is not None:
                group = without
                continue
            group, kind, start = next(
                (before, kind, int(start))
                for before, kind in smaller
                if (start := before_step(before, kind, node)) is not None
            )
            steps.append(Step(kind, start, node))
            node = start
        return tuple(reversed(steps))

    def _smaller(self, group: int) -> Sequence[tuple[int, int]]:
        """The sets with one host less, and its kind."""
        lattice = self._lattice
        return [
            (group - stride, kind)
            for kind, (stride, count) in enumerate(zip(lattice.strides, lattice.counts, strict=True))
            if group // stride % (count + 1)
        ]


def _furthest(allowed: Flags) -> Nodes:
    """(kinds, nodes), the furthest end of a step from each node; -1 where there is none."""
    last = allowed.shape[2] - 1
    furthest: Nodes = np.where(allowed.any(axis=2), last - allowed[:, :, ::-1].argmax(axis=2), -1)
    return furthest
