"""Widths within a budget lose as little as any."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis
from edgevit.pruning.allocation import Widths, allocate, candidates
from edgevit.pruning.elimination import Elimination


def axis(name: str, size: int) -> Axis:
    return Axis(name, "hidden", size, (), 0.0, None)


def curve(increments: list[float]) -> Elimination:
    """Each unit that goes adds so much."""
    return Elimination(tuple(range(len(increments))), tuple(itertools.accumulate(increments)))


Problem = tuple[dict[Axis, Elimination], dict[Axis, float]]


@st.composite
def problems(draw: st.DrawFn, *, convex: bool = True) -> Problem:
    """Curves of a few small axes, and what a unit of each costs."""
    curves, rates = {}, {}
    for number in range(draw(st.integers(1, 3))):
        increments = draw(st.lists(st.integers(0, 9).map(float), min_size=2, max_size=6))
        one = axis(str(number), len(increments))
        curves[one] = curve(sorted(increments) if convex else increments)
        rates[one] = float(draw(st.integers(1, 5)))
    return curves, rates


def cost_of(rates: dict[Axis, float], widths: Widths) -> float:
    return sum(rates[one] * width for one, width in widths.items())


def loss_of(curves: dict[Axis, Elimination], widths: Widths) -> float:
    return sum(curves[one].loss(width) for one, width in widths.items())


def every(curves: dict[Axis, Elimination]) -> list[Widths]:
    options = [candidates(one.size) for one in curves]
    return [dict(zip(curves, widths, strict=True)) for widths in itertools.product(*options)]


def budgets(curves: dict[Axis, Elimination], rates: dict[Axis, float]) -> list[float]:
    """From what the narrowest cost to what the widest cost."""
    costs = sorted({cost_of(rates, widths) for widths in every(curves)})
    return costs[:: max(1, len(costs) // 8)]


@settings(deadline=None, max_examples=60)
@given(problems())
def test_nothing_that_costs_as_little_loses_less(problem):
    curves, rates = problem
    for budget in budgets(curves, rates):
        found = allocate(curves, lambda widths: cost_of(rates, widths), budget)
        cost = cost_of(rates, found)
        assert cost <= budget
        best = min(loss_of(curves, widths) for widths in every(curves) if cost_of(rates, widths) <= cost)
        assert loss_of(curves, found) == pytest.approx(best)


@settings(deadline=None, max_examples=60)
@given(problems())
def test_what_is_left_of_the_budget_is_less_than_one_unit_would_be_worth(problem):
    curves, rates = problem
    unit = max(rates.values())
    for budget in budgets(curves, rates):
        found = allocate(curves, lambda widths: cost_of(rates, widths), budget)
        others = [widths for widths in every(curves) if cost_of(rates, widths) <= budget - unit]
        assert all(loss_of(curves, found) <= loss_of(curves, widths) for widths in others)


@pytest.mark.parametrize("convex", [True, False])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_larger_budget_never_loses_more(convex, data):
    curves, rates = data.draw(problems(convex=convex))
    losses = [
        loss_of(curves, allocate(curves, lambda widths: cost_of(rates, widths), budget))
        for budget in budgets(curves, rates)
    ]
    assert losses == sorted(losses, reverse=True)


@settings(deadline=None, max_examples=40)
@given(problems(convex=False), st.floats(0.0, 1.0))
def test_the_budget_is_held_where_costs_are_products_and_curves_bent_the_wrong_way(problem, share):
    curves, rates = problem

    def cost(widths: Widths) -> float:
        return math.prod(rates[one] * width for one, width in widths.items()) + sum(widths.values())

    least = cost({one: candidates(one.size)[0] for one in curves})
    most = cost({one: one.size for one in curves})
    budget = least + share * (most - least)
    found = allocate(curves, cost, budget)
    assert cost(found) <= budget
    assert all(width in candidates(one.size) for one, width in found.items())


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_scale_of_losses_is_of_no_consequence(scale):
    first, second = axis("a", 6), axis("b", 6)
    rising = [float(number) for number in range(1, 7)]
    curves = {
        first: curve([number * scale for number in rising]),
        second: curve([2.5 * number * scale for number in rising]),
    }
    assert allocate(curves, lambda widths: float(sum(widths.values())), 7) == {first: 2, second: 5}


def test_a_curve_that_is_straight_is_followed_to_the_budget():
    one = axis("a", 12)
    assert allocate({one: curve([1.0] * 12)}, lambda widths: widths[one], 7.5) == {one: 7}


def test_what_costs_nothing_to_lose_goes_first():
    first, second = axis("a", 6), axis("b", 6)
    curves = {first: curve([0.0, 0.0, 0.0, 5.0, 5.0, 5.0]), second: curve([1.0] * 6)}
    assert allocate(curves, lambda widths: sum(widths.values()), 10) == {first: 3, second: 6}


def test_an_axis_that_costs_nothing_stays():
    first, second = axis("a", 4), axis("b", 4)
    curves = {first: curve([1.0] * 4), second: curve([1.0] * 4)}
    assert allocate(curves, lambda widths: widths[first], 2) == {first: 2, second: 4}


def test_everything_stays_where_the_budget_allows():
    one = axis("a", 5)
    curves = {one: curve([0.0] * 5)}
    assert allocate(curves, lambda widths: widths[one], 5) == {one: 5}


def test_a_budget_that_cannot_be_met_says_by_how_much():
    one = axis("a", 64)
    with pytest.raises(EdgevitError, match="the budget of 5 cannot be met.* it is 8, 3 too much"):
        allocate({one: curve([1.0] * 64)}, lambda widths: widths[one], 5)


@pytest.mark.parametrize(
    ("size", "widths"),
    [
        (2, [1, 2]),
        (5, [1, 2, 3, 4, 5]),
        (64, list(range(8, 65, 8))),
        (36, [*range(2, 37, 2)]),
        (63, [*range(3, 64, 3)]),
    ],
)
def test_widths_that_are_considered(size, widths):
    assert candidates(size) == widths


def test_what_costs_only_of_the_smaller_of_two_costs_has_a_price_too():
    first, second = axis("first", 16), axis("second", 16)
    rising = [float(number) for number in range(16)]
    curves = {first: curve(rising), second: curve(rising)}
    # Of two costs with budgets of 10 and 12 units each axis has one alone.
    shares = lambda widths: (widths[first] / 10, widths[second] / 12)  # noqa: E731
    found = allocate(
        curves, lambda widths: max(shares(widths)), 1.0, priced=lambda widths: sum(shares(widths))
    )
    assert found[first] == 10
    assert found[second] in {11, 12}
