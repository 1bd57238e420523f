"""The way whose steps cost least together: pipelines of the lowest latency or energy, exactly.

A shortest path in which a host may be used but once. How often is at first not looked at; where the
cheapest way uses a kind more often than there are hosts of it, the uses of that kind are counted from then
on, and so on (decremental state space relaxation: Righini and Salani, Networks 51, 2008). What a relaxed
search finds is a bound; as soon as its way can be taken, it is the best. A way of low latency has few hosts,
so that few need to be counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevit.planning.routes import Costs, Route, Step, Sums, Tables

#: Table entries beyond which uses are counted no further: then a way and a bound are given.
MOST_WORK = 2 * 10**9

Rows = npt.NDArray[np.int64]


def least_sum(tables: Tables, most_work: int = MOST_WORK) -> Route | None:
    """The way whose steps and moves cost least together.

    Args:
        tables: with `sums` alone.
        most_work: table entries of one search; with more the route has a bound below its cost.

    Returns:
        None where there is no way.
    """
    sums = _sums(tables)
    counted: tuple[int, ...] = tuple(kind for kind, count in enumerate(tables.counts) if count == 0)
    while True:
        steps = _search(sums, tables.counts, counted)
        if steps is None:
            return None
        bound = sums.of(steps)
        excess = _excess(steps, tables.counts)
        if not excess:
            return Route(steps, bound, bound)
        counted = (*counted, excess[0])
        if _work(sums, tables.counts, counted) > most_work:
            return _within_bound(tables, bound)


def _sums(tables: Tables) -> Sums:
    if tables.sums is None or tables.peaks is not None:
        raise ValueError("no sums, or peaks beside them")
    return tables.sums


def _excess(steps: Sequence[Step], counts: tuple[int, ...]) -> list[int]:
    """Kinds that are used more often than there are hosts, the worst first."""
    used = Counter(step.kind for step in steps)
    return sorted(
        (kind for kind in used if used[kind] > counts[kind]), key=lambda kind: counts[kind] - used[kind]
    )


def _work(sums: Sums, counts: tuple[int, ...], counted: Sequence[int]) -> int:
    return math.prod(counts[kind] + 1 for kind in counted) * sums.stage.size


def _within_bound(tables: Tables, bound: float) -> Route | None:
    """A way on which each node is entered by what was cheapest up to it and has a host left to go on with."""
    sums = _sums(tables)
    steps = _Paths(sums, tables.counts).best()
    if steps is None:
        return None
    cost = sums.of(steps)
    return Route(steps, cost, min(bound, cost))


def _search(sums: Sums, counts: tuple[int, ...], counted: Sequence[int]) -> tuple[Step, ...] | None:
    """The cheapest way on which the counted kinds are used no more often than there are hosts."""
    labels = _Labels.empty(sums, counts, counted)
    for node in range(sums.stage.shape[1] - 1):
        entry, kind_before = labels.entries(node, sums)
        if np.isinf(entry).all():
            continue
        for kind in range(len(counts)):
            labels.extend(node, kind, entry[:, kind], kind_before[:, kind], sums.stage[kind, node])
    return labels.cheapest()


@dataclass(frozen=True, eq=False)
class _Labels:
    """The cheapest way to each node by each last kind, for each number of uses of the counted kinds.

    Attributes:
        cost: (uses, nodes, kinds) float64.
        node: likewise, where the last step started.
        kind: likewise, of the step before it; -1 where there is none.
        move: for each kind, from which rows of uses a step of it can be taken, and to which it leads.
    """

    cost: Costs
    node: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int16]
    move: tuple[tuple[Rows, Rows], ...]

    @classmethod
    def empty(cls, sums: Sums, counts: tuple[int, ...], counted: Sequence[int]) -> _Labels:
        rows = math.prod(counts[kind] + 1 for kind in counted)
        shape = (rows, sums.stage.shape[1], len(counts))
        moves = []
        for kind in range(len(counts)):
            every = np.arange(rows)
            if kind not in counted:
                moves.append((every, every))
                continue
            stride = math.prod(counts[before] + 1 for before in counted[: counted.index(kind)])
            free = every[every // stride % (counts[kind] + 1) < counts[kind]]
            moves.append((free, free + stride))
        return cls(
            cost=np.full(shape, np.inf),
            node=np.zeros(shape, dtype=np.int32),
            kind=np.full(shape, -1, dtype=np.int16),
            move=tuple(moves),
        )

    def entries(self, node: int, sums: Sums) -> tuple[Costs, npt.NDArray[np.int16]]:
        """(uses, kinds) twice: what it costs to come to a kind at a node, and from which kind."""
        rows, _, kinds = self.cost.shape
        if node == 0:
            start = np.where(np.arange(rows) == 0, 0.0, np.inf)
            return np.repeat(start[:, None], kinds, axis=1), np.full((rows, kinds), -1, dtype=np.int16)
        through = self.cost[:, node, :, None] + sums.move[node]
        before = through.argmin(axis=1).astype(np.int16)
        return through.min(axis=1), before

    def extend(self, node: int, kind: int, entry: Costs, before: npt.NDArray[np.int16], stage: Costs) -> None:
        """Take every step of a kind from a node."""
        rows, targets = self.move[kind]
        alive = np.isfinite(entry[rows])
        rows, targets = rows[alive], targets[alive]
        cost = entry[rows, None] + stage[None, node + 1 :]
        held = self.cost[targets, node + 1 :, kind]
        better = cost < held
        self.cost[targets, node + 1 :, kind] = np.where(better, cost, held)
        self.node[targets, node + 1 :, kind] = np.where(better, node, self.node[targets, node + 1 :, kind])
        self.kind[targets, node + 1 :, kind] = np.where(
            better, before[rows, None], self.kind[targets, node + 1 :, kind]
        )

    def cheapest(self) -> tuple[Step, ...] | None:
        """The way of least cost to the last node."""
        _, nodes, kinds = self.cost.shape
        row, kind = divmod(int(self.cost[:, -1].argmin()), kinds)
        if not np.isfinite(self.cost[row, -1, kind]):
            return None
        steps, node = [], nodes - 1
        while node > 0:
            start, before = int(self.node[row, node, kind]), int(self.kind[row, node, kind])
            steps.append(Step(kind, start, node))
            sources, targets = self.move[kind]
            row = int(sources[np.searchsorted(targets, row)])
            node, kind = start, before
        return tuple(reversed(steps))


class _Paths:
    """One way to each node by each last kind, which remembers its hosts: quick, and not always the best."""

    def __init__(self, sums: Sums, counts: tuple[int, ...]) -> None:
        _, nodes, _ = sums.stage.shape
        self._sums = sums
        self._counts = counts
        self._ways: list[dict[int, tuple[float, tuple[Step, ...]]]] = [{} for _ in range(nodes)]

    def best(self) -> tuple[Step, ...] | None:
        """A way to the last node, or None where none was met."""
        for node in range(len(self._ways) - 1):
            for kind in range(len(self._counts)):
                self._take(node, kind, self._entry(node, kind))
        return min(self._ways[-1].values(), default=(math.inf, None))[1]

    def _entry(self, node: int, kind: int) -> tuple[float, tuple[Step, ...]] | None:
        if node == 0:
            return (0.0, ()) if self._counts[kind] else None
        through = [
            (cost + float(self._sums.move[node, before, kind]), steps)
            for before, (cost, steps) in self._ways[node].items()
            if sum(step.kind == kind for step in steps) < self._counts[kind]
        ]
        return min(through, default=None)

    def _take(self, node: int, kind: int, entry: tuple[float, tuple[Step, ...]] | None) -> None:
        if entry is None:
            return
        costs = entry[0] + self._sums.stage[kind, node]
        for end in np.flatnonzero(np.isfinite(costs)).tolist():
            if costs[end] < self._ways[end].get(kind, (math.inf, ()))[0]:
                self._ways[end][kind] = (float(costs[end]), (*entry[1], Step(kind, node, end)))
