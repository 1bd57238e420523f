"""The way whose costliest step is cheapest: pipelines of the highest throughput, exactly.

The costliest step is one of finitely many: they are searched in halves, each time asking whether the last
node can be reached by steps that cost no more. For that, the sets of hosts are walked through, hosts of a
kind counted instead of named: 16 different ones are 65,536 sets, 50 of 5 kinds 161,051. For each set it is
usually enough to know the furthest node that it reaches; all nodes are looked at only where that leaves a
doubt, which memory and lines of different speed can do: a node further on need not be the better one to go
on from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgevit.planning.bounds import heights, may_climb, merged, reached_by_beam
from edgevit.planning.host_sets import Search
from edgevit.planning.routes import Costs, Route, Step, Sums, Tables
from edgevit.planning.shortest import least_sum

#: More sets of hosts than these take minutes; then a good way is found, and how far it can be from the best.
MOST_SETS = 2**20


def least_bottleneck(tables: Tables, most_sets: int = MOST_SETS) -> Route | None:
    """The way whose costliest step is cheapest; of fewest hosts among those that the search meets.

    Args:
        tables: with `peaks` alone.
        most_sets: of hosts that are walked through; with more the route has a bound below its cost.

    Returns:
        None where there is no way.
    """
    peaks = _peaks(tables)
    values = _values(tables)
    height = heights(peaks)
    low = _first(len(values), lambda place: may_climb(peaks <= values[place], tables.counts, height))
    if math.prod(count + 1 for count in tables.counts) > most_sets:
        return _within_bounds(tables, values, low, most_sets)
    if low == len(values) or not any(tables.counts):
        return None
    steps = _least(Search(peaks, tables.counts), values, low)
    return None if steps is None else Route(steps, tables.cost(steps), tables.cost(steps))


def _least(search: Search, values: Costs, low: int) -> tuple[Step, ...] | None:
    """The way of the least value from a place on: quick means first, exact ones where these leave a doubt."""
    found: dict[int, tuple[Step, ...] | None] = {}

    def follows(place: int) -> bool:
        found[place] = search.follow(values[place])
        return found[place] is not None

    def reaches(place: int) -> bool:
        found[place] = search.reach(values[place])
        return found[place] is not None

    place = _first(len(values), follows, low)
    if place > low and search.may_reach(values[place - 1]):
        low = _first(place, lambda place: search.may_reach(values[place]), low)
        place = _first(place, reaches, low)
    return found.get(place)


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
    values = _values(tables)
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


def _values(tables: Tables) -> Costs:
    """What the costliest step can cost, ascending; up to the floor, one value is as good as another."""
    peaks = np.maximum(_peaks(tables), tables.floor)
    return np.unique(peaks[np.isfinite(peaks)])


def _first(count: int, holds: Callable[[int], bool], start: int = 0) -> int:
    """The first place from `start` at which something holds that goes on holding; `count` where none is.

    By steps that double, then in halves: what is looked for is mostly near the start.
    """
    step = 1
    while start + step <= count and not holds(start + step - 1):
        start, step = start + step, 2 * step
    count = min(start + step - 1, count)
    while start < count:
        middle = (start + count) // 2
        if holds(middle):
            count = middle
        else:
            start = middle + 1
    return count


def _within_bounds(tables: Tables, values: Costs, low: int, most_sets: int) -> Route | None:
    """A good way, and a bound: of an easier problem, or of what all hosts together can do."""
    peaks = _peaks(tables)
    height, easier = heights(peaks), merged(tables, most_sets)
    search = Search(_peaks(easier), easier.counts)
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
