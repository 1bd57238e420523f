"""Sets of hosts, and what each of them can reach: hosts of a kind are counted, not named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.planning.routes import Costs, Step

Nodes = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Level:
    """Sets of as many hosts, and how each comes about by one more host: in pairs of a smaller set and a kind.

    Attributes:
        sets: numbers of the sets.
        starts: of each set, where its pairs begin among all.
        after: of each pair, the set that it gives.
        before: the set with one host less.
        kind: of that host.
    """

    sets: Nodes
    starts: Nodes
    after: Nodes
    before: Nodes
    kind: Nodes


@dataclass(frozen=True, eq=False)
class Lattice:
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
    def levels(self) -> list[Level]:
        """By the number of hosts, from one."""
        sets = np.arange(self.size, dtype=np.int32)
        digits = np.stack(
            [sets // stride % (count + 1) for stride, count in zip(self.strides, self.counts, strict=True)],
            axis=1,
        )
        hosts = digits.sum(axis=1)
        return [self._level(np.flatnonzero(hosts == count), digits) for count in range(1, hosts[-1] + 1)]

    def _level(self, sets: Nodes, digits: Nodes) -> Level:
        which, kind = np.nonzero(digits[sets])
        after = sets[which].astype(np.int32)
        before = after - np.array(self.strides, dtype=np.int32)[kind]
        return Level(sets, np.searchsorted(which, np.arange(len(sets))), after, before, kind.astype(np.int32))


@lru_cache(maxsize=2)
def lattice_of(counts: tuple[int, ...]) -> Lattice:
    """The sets of hosts of so many of each kind; the best few ways look through the same sets again."""
    return Lattice(counts)


class Search:
    """Whether the last node can be reached by steps that cost no more than a threshold.

    Args:
        peaks: (kinds, nodes, nodes), of each step; infinite where it cannot be taken.
        counts: of the hosts of each kind.
    """

    def __init__(self, peaks: Costs, counts: tuple[int, ...]) -> None:
        # Kinds of which there are none would only make other sets of the same.
        self._kinds = [kind for kind, count in enumerate(counts) if count]
        self._peaks = peaks[self._kinds]
        self._lattice = lattice_of(tuple(counts[kind] for kind in self._kinds))
        self._last = peaks.shape[1] - 1

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
        ahead = np.maximum(ahead, np.arange(ahead.shape[1], dtype=np.int32))
        reached = np.zeros(self._lattice.size, dtype=np.int32)
        flat, width = ahead.ravel(), ahead.shape[1]
        for level in self._lattice.levels:
            found = flat[level.kind * width + reached[level.before]]
            reached[level.sets] = np.maximum.reduceat(found, level.starts)
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
            kept = alive[level.before]
            for kind in range(len(steps)):
                pairs = np.flatnonzero(kept & (level.kind == kind))
                before = reached[level.before[pairs]]
                reached[level.after[pairs]] |= before | (before.astype(np.float32) @ steps[kind] > 0)
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
            steps.append(Step(self._kinds[kind], start, node))
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
    furthest = np.where(allowed.any(axis=2), last - allowed[:, :, ::-1].argmax(axis=2), -1)
    return furthest.astype(np.int32)
