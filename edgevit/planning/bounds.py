"""Where hosts are too many to walk through all their sets: bounds from easier problems, a beam for a way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgevit.planning.routes import Costs, Step, Tables

#: Sets of hosts of one size that a beam goes on with.
_WIDTH = 100

Flags = npt.NDArray[np.bool_]


def merged(tables: Tables, most_sets: int) -> Tables:
    """An easier problem of few sets: kinds that are alike become one that is as good as the best of them.

    Whatever the hosts of a problem can do, those of the easier one can do as cheaply: its best is a bound.

    Args:
        tables: with `peaks` alone.
        most_sets: of hosts that the easier problem may have; more where all kinds have become one.
    """
    if tables.peaks is None:
        raise ValueError("no peaks")
    kinds = [(peaks, count) for peaks, count in zip(tables.peaks, tables.counts, strict=True) if count]
    while len(kinds) > 1 and math.prod(count + 1 for _, count in kinds) > most_sets:
        # Steps from the first node tell kinds apart well enough, and cheaply.
        first, second = min(
            itertools.combinations(range(len(kinds)), 2),
            key=lambda pair: _distance(kinds[pair[0]][0][0], kinds[pair[1]][0][0]),
        )
        (peaks, count), (others, more) = kinds[first], kinds[second]
        rest = [kind for place, kind in enumerate(kinds) if place not in {first, second}]
        kinds = [*rest, (np.minimum(peaks, others), count + more)]
    return replace(
        tables, peaks=np.stack([peaks for peaks, _ in kinds]), counts=tuple(count for _, count in kinds)
    )


def _distance(first: Costs, second: Costs) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    differ = np.count_nonzero(np.isfinite(first) != np.isfinite(second))
    return float(np.abs(first[both] - second[both]).sum()) + float(differ)


def heights(peaks: Costs) -> Costs:
    """(nodes,), how far each node is from the first: the sum of the cheapest steps up to it.

    A way climbs from 0 to the last height, whatever its hosts; what each of them climbs in a time is limited.

    Args:
        peaks: (kinds, nodes, nodes).
    """
    cheapest = peaks.min(axis=0)
    height = np.full(len(cheapest), np.inf)
    height[0] = 0.0
    for node in range(1, len(cheapest)):
        height[node] = (height[:node] + cheapest[:node, node]).min()
    # A node that nothing reaches is on no way: any height is right for it.
    return np.where(np.isfinite(height), height, 0.0)


def climbs(allowed: Flags, height: Costs) -> Costs:
    """(kinds,), the most that one allowed step of each kind climbs; 0 where there is none."""
    climbed = np.where(allowed, height[None, None] - height[None, :, None], 0.0)
    most: Costs = climbed.max(axis=(1, 2))
    return most


def may_climb(allowed: Flags, counts: tuple[int, ...], height: Costs) -> bool:
    """Whether all hosts together climb high enough; where they do not, there is no way."""
    return float(np.dot(climbs(allowed, height), counts)) >= float(height[-1]) * (1 - 1e-12)


def reached_by_beam(allowed: Flags, counts: tuple[int, ...], height: Costs) -> tuple[Step, ...] | None:
    """A way to the last node by allowed steps, or None where none was met; there may be one all the same.

    Host by host; of the ways with as many hosts those go on that waste least of what their hosts could climb.

    Args:
        allowed: (kinds, nodes, nodes), whether each step may be taken.
        counts: of the hosts of each kind.
        height: of the nodes.
    """
    last = allowed.shape[1] - 1
    furthest = np.where(allowed.any(axis=2), last - allowed[:, :, ::-1].argmax(axis=2), -1)
    able = climbs(allowed, height).tolist()
    # Whatever wastes more than what is left over in all can no longer come to the end.
    spare = float(np.dot(able, counts)) - height[-1] * (1 - 1e-12)
    onwards = [np.flatnonzero(furthest[:, node] > node).tolist() for node in range(last)]
    beam = [_Way((0,) * len(counts), 0, 0.0, ())]
    for _ in range(sum(counts)):
        grown: dict[tuple[int, ...], _Way] = {}
        for way in beam:
            for kind in onwards[way.node]:
                if way.used[kind] == counts[kind]:
                    continue
                longer = way.extended(kind, int(furthest[kind, way.node]), able[kind])
                if longer.node == last:
                    return longer.steps
                held = grown.get(longer.used)
                wasted = longer.able - height[longer.node]
                if wasted <= spare and (held is None or longer.node > held.node):
                    grown[longer.used] = longer
        beam = sorted(grown.values(), key=lambda way: way.able - height[way.node])[:_WIDTH]
    return None


class _Way(NamedTuple):
    """A way that has not come to its end: hosts used of each kind, where it is, what they could climb."""

    used: tuple[int, ...]
    node: int
    able: float
    steps: tuple[Step, ...]

    def extended(self, kind: int, end: int, able: float) -> _Way:
        used = (*self.used[:kind], self.used[kind] + 1, *self.used[kind + 1 :])
        return _Way(used, end, self.able + able, (*self.steps, Step(kind, self.node, end)))
