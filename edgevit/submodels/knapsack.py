"""One choice from each of several groups, so that their losses add up to the least within a budget: exactly.

The multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11) by
dynamic programming over groups. Of the ways to choose from the first groups, those are kept that fewer than K
others equal or beat in cost and in loss: whatever follows, only they can be among the K best.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.errors import EdgevitError


@dataclass(frozen=True)
class Choice:
    """What can be taken from a group.

    Attributes:
        cost: what it takes of the budget.
        loss: what it costs otherwise.
    """

    cost: int
    loss: float


@dataclass(frozen=True)
class Solution:
    """One choice from each group.

    Attributes:
        chosen: the index of the choice in each group.
        cost: of all.
        loss: likewise.
    """

    chosen: tuple[int, ...]
    cost: int
    loss: float


def best(groups: Sequence[Sequence[Choice]], budget: int, *, count: int = 1) -> list[Solution]:
    """The solutions of the least loss within a budget, the best first; of equal ones the cheapest first.

    Args:
        groups: each of one choice at least; costs are not negative.
        budget: what all choices may cost together.
        count: how many solutions, at most.

    Raises:
        EdgevitError: when even the cheapest choices cost more.
    """
    # What is left must be enough for the cheapest of all groups that follow.
    needed = [min(choice.cost for choice in group) for group in groups]
    if sum(needed) > budget:
        raise EdgevitError(
            f"the budget of {budget:,} cannot be met: the smallest costs {sum(needed):,}, "
            f"{sum(needed) - budget:,} more"
        )
    left = budget - sum(needed)
    states = [Solution((), 0, 0.0)]
    for group, least in zip(groups, needed, strict=True):
        grown = (
            Solution((*state.chosen, index), state.cost + choice.cost - least, state.loss + choice.loss)
            for state in states
            for index, choice in enumerate(group)
            if state.cost + choice.cost - least <= left
        )
        states = _kept(list(grown), count)
    states.sort(key=lambda state: (state.loss, state.cost))
    return [Solution(state.chosen, state.cost + sum(needed), state.loss) for state in states[:count]]


def _kept(states: list[Solution], count: int) -> list[Solution]:
    """Those that fewer than `count` others equal or beat in cost and loss."""
    states.sort(key=lambda state: (state.cost, state.loss))
    least: list[float] = []
    kept = []
    for state in states:
        if len(least) < count:
            heapq.heappush(least, -state.loss)
        elif state.loss < -least[0]:
            heapq.heapreplace(least, -state.loss)
        else:
            continue
        kept.append(state)
    return kept
