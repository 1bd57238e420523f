"""How much of each axis stays, so that the whole costs what it may and the predictions change least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis
from edgevit.pruning.elimination import Elimination

Widths = dict[Axis, int]
# Halvings of the price of a cost: far below the difference that one unit makes.
_STEPS = 50
# The price of one unit depends on what else stays; found anew so many times.
_ROUNDS = 3


def candidates(size: int) -> list[int]:
    """The widths that are considered: multiples of 8 where there are enough of them, as kernels like them."""
    step = 8 if size >= 64 and size % 8 == 0 else max(1, size // 16)
    return sorted({*range(step, size, step), size})


def narrowest(axes: Iterable[Axis]) -> Widths:
    """The least that may stay of each axis."""
    return {axis: candidates(axis.size)[0] for axis in axes}


def allocate(curves: Mapping[Axis, Elimination], cost: Callable[[Widths], float], budget: float) -> Widths:
    """Widths with the least sum of losses whose cost is within a budget.

    By Lagrange's method: at one price for a unit of cost, every axis has the width that is best for it
    alone; the price is the lowest at which the budget holds. Where costs are sums over axes, and losses
    convex, nothing else within the budget loses less.

    Args:
        curves: of all axes that may shrink.
        cost: of widths.
        budget: what it may be.

    Raises:
        EdgevitError: when even the narrowest candidates cost more.
    """
    full = {axis: axis.size for axis in curves}
    ends = narrowest(curves)
    least = cost(ends)
    if least > budget:
        raise EdgevitError(
            f"the budget of {budget:.4g} cannot be met: with every axis at its narrowest it is {least:.4g}, "
            f"{least - budget:.4g} too much"
        )
    if cost(full) <= budget:
        return full
    found = full
    for _ in range(_ROUNDS):
        rates = _rates(found, ends, cost)
        found = _at_budget(curves, rates, cost, budget)
    return found


def _rates(around: Widths, ends: Widths, cost: Callable[[Widths], float]) -> dict[Axis, float]:
    """What a unit of each axis costs where the others are as they are."""
    rates = {}
    for axis in around:
        most, least = (cost({**around, axis: width}) for width in (axis.size, ends[axis]))
        rates[axis] = (most - least) / max(1, axis.size - ends[axis])
    return rates


def _at_budget(
    curves: Mapping[Axis, Elimination],
    rates: Mapping[Axis, float],
    cost: Callable[[Widths], float],
    budget: float,
) -> Widths:
    def at(price: float) -> Widths:
        return {
            axis: min(
                candidates(axis.size), key=lambda width: curve.loss(width) + price * rates[axis] * width
            )
            for axis, curve in curves.items()
        }

    low, high = 1e-30, 1e12
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if cost(at(middle)) > budget else (low, middle)
    return at(high)
