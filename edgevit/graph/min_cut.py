"""The cheapest place between what must come before a cut and what must come behind it.

A cut of a graph of operations is a set of them that is closed: what one of them reads is in it as well.
It costs the values that are made in it and read outside of it, each once, however many read it. Among all
closed sets that hold some operations and leave out others, the cheapest is a minimum cut of a flow
network [1]: from what makes a value, an edge of its cost leads to a point of its own, and from there
edges that cannot be cut lead to all that read it; edges back that cannot be cut either pull what makes a
value to the side of who reads it.

The cheapest set need not be the only one. The largest is returned, and with that the sets are nested:
such a cost is submodular, so where more must come before and less behind, the largest cheapest set holds
the one of before [2].

Sources: [1] Picard, Maximal closure of a graph and applications to combinatorial problems, Management
Science 22 (1976), and for values that many read, Lawler, Cutsets and partitions of hypergraphs, Networks
3 (1973). [2] Topkis, Minimizing a submodular function on a lattice, Operations Research 26 (1978).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

_BEFORE, _BEHIND = "before", "behind"
_Residual = dict[object, dict[object, int]]


def cheapest_closed_set(
    readers: Mapping[T, Sequence[T]],
    costs: Mapping[T, int],
    before: Set[T],
    behind: Set[T],
) -> tuple[int, set[T]] | None:
    """The largest of the cheapest closed sets between two.

    Args:
        readers: what reads the value of each operation; the keys are all operations.
        costs: of a value, above 0, where it is read across the cut; a value without one cannot cross.
        before: operations in the set; it is closed.
        behind: operations that are not, and with one all that reads it.

    Returns:
        What crosses costs, and the set; None where something would cross that cannot.
    """
    unbounded = 1 + sum(costs.values())
    free = readers.keys() - before - behind
    residual = _network(readers, costs, before, free, unbounded)
    total = 0
    while path := _path(residual):
        flow = min(residual[start][end] for start, end in path)
        for start, end in path:
            residual[start][end] -= flow
            residual[end][start] = residual[end].get(start, 0) + flow
        total += flow
        if total >= unbounded:
            return None
    leading = _leading_behind(residual)
    return total, {*before, *(maker for maker in free if maker not in leading)}


def _network(
    readers: Mapping[T, Sequence[T]],
    costs: Mapping[T, int],
    before: Set[T],
    free: Set[T],
    unbounded: int,
) -> _Residual:
    """Capacities: of operations that are before and behind, only the side is left."""
    network: _Residual = defaultdict(dict)
    for maker in (*before, *free):
        start: object = _BEFORE if maker in before else maker
        outside = [reader for reader in readers[maker] if reader not in before]
        if not outside:
            continue
        value = ("value", maker)
        network[start][value] = costs.get(maker, unbounded)
        for reader in outside:
            network[value][reader if reader in free else _BEHIND] = unbounded
            if reader in free and maker in free:
                network[reader][maker] = unbounded
    return network


def _path(residual: _Residual) -> list[tuple[object, object]]:
    """A shortest way from before to behind along which something can flow; empty where there is none."""
    came_from: dict[object, object] = {_BEFORE: None}
    pending = deque[object]([_BEFORE])
    while pending and _BEHIND not in came_from:
        start = pending.popleft()
        for end, capacity in residual.get(start, {}).items():
            if capacity > 0 and end not in came_from:
                came_from[end] = start
                pending.append(end)
    path: list[tuple[object, object]] = []
    place: object = _BEHIND
    while place in came_from and place != _BEFORE:
        path.append((came_from[place], place))
        place = came_from[place]
    return path


def _leading_behind(residual: _Residual) -> set[object]:
    """From where something could still flow behind."""
    entering: dict[object, list[object]] = defaultdict(list)
    for start, ends in residual.items():
        for end, capacity in ends.items():
            if capacity > 0:
                entering[end].append(start)
    found: set[object] = {_BEHIND}
    pending: list[object] = [_BEHIND]
    while pending:
        for start in entering[pending.pop()]:
            if start not in found:
                found.add(start)
                pending.append(start)
    return found
