"""Of all units left, the one goes whose loss the others make up for best."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.pruning.elimination import Elimination, Reader, eliminate


def problem(units: int, columns: int, *, others: int = 0, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A weight, a covariance that is far from diagonal, and whose columns are whose."""
    generator = torch.Generator().manual_seed(seed)
    size = units * columns + others
    mixed = torch.randn(size, size + 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, size, generator=generator, dtype=torch.float64)
    owners = torch.tensor([*range(units)] * columns + [-1] * others)
    order = torch.randperm(size, generator=generator)
    return weight, mixed @ mixed.T / size, owners[order]


def refitted(weight: torch.Tensor, covariance: torch.Tensor, kept: torch.Tensor) -> float:
    """The squared error of the best layer that reads some columns alone: least squares by hand."""
    inside = covariance[kept][:, kept]
    best = torch.linalg.solve(inside, covariance[kept] @ weight.T).T if len(kept) else weight[:, kept]
    change = weight.clone()
    change[:, kept] -= best
    return float((change @ covariance * change).sum())


def error(problems: Sequence[tuple[torch.Tensor, ...]], gone: Sequence[int]) -> float:
    """Of all readers, when some units are gone."""
    return sum(
        refitted(weight, damped(covariance), (~torch.isin(owners, torch.tensor(gone))).nonzero().flatten())
        for weight, covariance, owners in problems
    )


def damped(covariance: torch.Tensor) -> torch.Tensor:
    return covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)


def found_for(problems: Sequence[tuple[torch.Tensor, ...]], units: int) -> Elimination:
    return eliminate([Reader.of(*one) for one in problems], units)


PROBLEMS = {
    "a column each": [problem(6, 1)],
    "three columns each": [problem(5, 3)],
    "columns of no unit": [problem(5, 2, others=4)],
    "several readers": [problem(6, 1), problem(6, 2, others=3, seed=1), problem(6, 1, others=1, seed=2)],
}


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_losses_are_those_of_layers_fitted_anew(name):
    problems = PROBLEMS[name]
    size = int(problems[0][2].max()) + 1
    found = found_for(problems, size)
    for count, loss in enumerate(found.losses, start=1):
        assert loss == pytest.approx(error(problems, found.order[:count]), rel=1e-6)
        assert found.loss(size - count) == loss


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_at_each_step_the_unit_goes_that_costs_least(name):
    problems = PROBLEMS[name]
    size = int(problems[0][2].max()) + 1
    found = found_for(problems, size)
    for count, unit in enumerate(found.order):
        gone = found.order[:count]
        costs = {left: error(problems, [*gone, left]) for left in range(size) if left not in gone}
        assert unit == min(costs, key=costs.__getitem__)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 3), st.integers(0, 999))
def test_every_unit_goes_once_and_losses_never_fall(units, columns, others, seed):
    found = found_for([problem(units, columns, others=others, seed=seed)], units)
    assert sorted(found.order) == list(range(units))
    assert list(found.losses) == sorted(found.losses)
    assert found.losses[0] >= 0
    assert found.loss(units) == 0
    for count in range(units + 1):
        assert found.kept(count) == sorted(set(range(units)) - set(found.order[: units - count]))


def test_two_units_that_say_the_same_go_one_for_nothing_and_not_both():
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = torch.cov(torch.cat([rows, rows[:, :1]], dim=1).T)
    found = eliminate([Reader.of(torch.ones(2, 4), covariance, torch.arange(4))], 4)
    assert found.order[0] in {0, 3}
    assert found.losses[0] < 1e-3 * found.losses[1]


def test_a_unit_that_no_column_has_costs_nothing():
    weight, covariance, units = problem(3, 1)
    found = eliminate([Reader.of(weight, covariance, units)], 4)
    assert found.order[0] == 3
    assert found.losses[0] == 0


def test_columns_that_never_vary_can_be_inverted():
    found = eliminate(
        [Reader.of(torch.ones(2, 3), torch.zeros(3, 3, dtype=torch.float64), torch.arange(3))], 3
    )
    assert sorted(found.order) == [0, 1, 2]
    assert found.losses[-1] < 1e-9


def test_what_was_given_is_not_changed():
    weight, covariance, units = problem(5, 2)
    before = [value.clone() for value in (weight, covariance, units)]
    eliminate([Reader.of(weight, covariance, units)], 5)
    assert all(torch.equal(*pair) for pair in zip(before, (weight, covariance, units), strict=True))


def test_greed_is_close_to_the_best_of_all_choices():
    worse = []
    for seed in range(10):
        problems = [problem(7, 1, seed=seed)]
        found = found_for(problems, 7)
        best = min(error(problems, gone) for gone in itertools.combinations(range(7), 3))
        worse.append(found.loss(4) / best)
    assert min(worse) >= 1 - 1e-9
    assert sum(worse) / len(worse) < 1.3


def test_the_order_of_columns_is_of_no_consequence():
    weight, covariance, units = problem(6, 2)
    order = list(range(12))
    random.Random(0).shuffle(order)
    shuffled = (weight[:, order], covariance[order][:, order], units[order])
    assert found_for([shuffled], 6).order == found_for([(weight, covariance, units)], 6).order
