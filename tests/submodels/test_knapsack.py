"""The multiple-choice knapsack, against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.submodels.knapsack import Choice, best

CHOICES = st.builds(Choice, cost=st.integers(0, 20), loss=st.integers(0, 50).map(float))
GROUPS = st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=5)


def every(groups: list[list[Choice]], budget: int) -> list[tuple[float, int]]:
    """Loss and cost of all that the budget allows, the best first."""
    found = []
    for chosen in itertools.product(*groups):
        cost = sum(choice.cost for choice in chosen)
        if cost <= budget:
            found.append((sum(choice.loss for choice in chosen), cost))
    return sorted(found)


@settings(max_examples=300, deadline=None)
@given(GROUPS, st.integers(0, 80), st.integers(1, 6))
def test_it_is_what_trying_everything_finds(groups, budget, count):
    expected = every(groups, budget)
    if not expected:
        with pytest.raises(EdgevitError, match="cannot be met: the smallest costs"):
            best(groups, budget, count=count)
        return
    found = best(groups, budget, count=count)
    assert [one.loss for one in found] == [loss for loss, _ in expected[:count]]
    assert found[0].cost == expected[0][1]
    assert len({one.chosen for one in found}) == len(found)
    for one in found:
        taken = [group[index] for group, index in zip(groups, one.chosen, strict=True)]
        assert (one.cost, one.loss) == (sum(t.cost for t in taken), sum(t.loss for t in taken))
        assert one.cost <= budget


@given(GROUPS, st.integers(1, 5))
def test_another_scale_of_costs_changes_nothing(groups, scale):
    budget = sum(max(choice.cost for choice in group) for group in groups) * 2 // 3
    scaled = [[Choice(choice.cost * scale, choice.loss) for choice in group] for group in groups]
    try:
        expected = best(groups, budget)[0].chosen
    except EdgevitError:
        with pytest.raises(EdgevitError):
            best(scaled, budget * scale)
        return
    assert best(scaled, budget * scale)[0].chosen == expected


def test_many_groups_of_many_choices():
    groups = [[Choice(cost, (10 - cost) ** 2 * (place + 1)) for cost in range(11)] for place in range(40)]
    found = best(groups, 200, count=20)
    assert len(found) == 20
    assert found[0].cost == 200
    assert found[0].loss <= found[-1].loss
