"""How much of each axis stays, so that the whole costs what it may and the predictions change least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis
from edgevit.pruning.elimination import Elimination

Widths = dict[Axis, int]
# Halvings of the price of a cost on a scale of orders of magnitude, and how many of these.
_STEPS = 50
_MAGNITUDES = 40
# The price of one unit depends on what else stays; found anew so many times.
_ROUNDS = 3


def candidates(size: int) -> list[int]:
    """The widths that are considered: multiples of 8 where there are enough of them, as kernels like them."""
    step = 8 if size >= 64 and size % 8 == 0 else max(1, size // 16)
    return sorted({*range(step, size, step), size})


def narrowest(axes: Iterable[Axis]) -> Widths:
    """The least that may stay of each axis."""
    return {axis: candidates(axis.size)[0] for axis in axes}


def allocate(
    curves: Mapping[Axis, Elimination],
    cost: Callable[[Widths], float],
    budget: float,
    *,
    priced: Callable[[Widths], float] | None = None,
) -> Widths:
    """Widths with the least sum of losses whose cost is within a budget.

    By Lagrange's method: at one price for a unit of cost, every axis has the width that is best for it
    alone; the price is the lowest at which the budget holds. Where every axis costs so much for each of its
    units, and losses are convex, nothing that costs as little as what is found loses less.

    Args:
        curves: of all axes that may shrink.
        cost: of widths; it must not fall when one of them grows.
        budget: what it may be.
        priced: what has the price, where the cost is the larger of several and does not add up over axes; the
            cost itself where None.

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
        rates = _rates(found, ends, priced or cost)
        found = _at_budget(curves, rates, cost, budget)
    return found


def _rates(around: Widths, ends: Widths, cost: Callable[[Widths], float]) -> dict[Axis, float]:
    """What a unit of each axis costs where the others are as they are, a little at least."""
    rates = {}
    for axis in around:
        most, fewest = (cost({**around, axis: width}) for width in (axis.size, ends[axis]))
        rates[axis] = (most - fewest) / max(1, axis.size - ends[axis])
    least = max(*rates.values(), 1e-30) * 1e-9
    return {axis: max(rate, least) for axis, rate in rates.items()}


def _at_budget(
    curves: Mapping[Axis, Elimination],
    rates: Mapping[Axis, float],
    cost: Callable[[Widths], float],
    budget: float,
) -> Widths:
    """The widths at the lowest price at which the budget holds, and what it leaves room for."""

    def at(price: float) -> Widths:
        return {
            axis: min(
                candidates(axis.size), key=lambda width: curve.loss(width) + price * rates[axis] * width
            )
            for axis, curve in curves.items()
        }

    # At such a price one unit of any axis costs more than all that may be lost.
    worst = max(curve.losses[-1] for curve in curves.values()) or 1.0
    high = 2 * worst / min(rates.values())
    low = high / 10**_MAGNITUDES
    wide, narrow = at(low), at(high)
    if cost(wide) <= budget:
        return wide
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        tried = at(middle)
        if tried == wide or (tried != narrow and cost(tried) > budget):
            low, wide = middle, tried
        else:
            high, narrow = middle, tried
    return _widened(narrow, wide, cost, budget)


def _widened(narrow: Widths, wide: Widths, cost: Callable[[Widths], float], budget: float) -> Widths:
    """As far on the way from widths to others of the same price as the budget goes, axis by axis.

    A curve that is straight, or bent the wrong way, goes from one of its ends to the other at one price.
    """
    found = dict(narrow)
    for axis, end in wide.items():
        between = [width for width in candidates(axis.size) if found[axis] < width <= end]
        for width in reversed(between):
            if cost({**found, axis: width}) <= budget:
                found[axis] = width
                break
        if found[axis] < end:
            break
    return found
