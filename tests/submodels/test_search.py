"""Which submodel is best within a budget."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.submodels.costing import Counted
from edgevit.submodels.elastic import elastic
from edgevit.submodels.extraction import extract
from edgevit.submodels.places import places_of
from edgevit.submodels.search import Search, within
from tests.pruning.helpers import program_of


class Net(nn.Module):
    """Four residual MLPs of one width: the units of the second matter most, those of the last not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.ModuleList(nn.Linear(16, 32) for _ in range(4))
        self.second = nn.ModuleList(nn.Linear(32, 16) for _ in range(4))
        self.head = nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        for first, second, scale in zip(self.first, self.second, (1.0, 6.0, 1.0, 0.0), strict=True):
            tokens = tokens + scale * second(first(tokens).relu())
        return self.head(tokens.mean(1))


@functools.cache
def images() -> torch.Tensor:
    return torch.randn(48, 3, 8, 8, generator=torch.manual_seed(0))


@functools.cache
def nested() -> Program:
    torch.manual_seed(0)
    return elastic(program_of(Net(), (3, 8, 8)), images().numpy(), shares=(0.25, 0.5, 0.75)).program


def search(*, of: str = "macs", seed: int = 0) -> Search:
    return Search(nested(), images().numpy(), cost=Counted(nested(), of), seed=seed)


@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_costs_are_those_of_the_submodel(cost):
    found = search(of=cost)
    key = (8, 16, 24, 32)
    small = extract(nested(), found.named(key))
    expected = count_macs(small) if cost == "macs" else small.parameter_count
    assert found.cost(key) == expected
    assert found.whole == (32, 32, 32, 32)


def test_the_axis_that_matters_stays_wide_and_the_one_that_does_not_goes_first():
    found = search()
    budget = (found.cost(found.whole) + found.cost((8, 8, 8, 8))) // 2
    key = found.solve(budget)[0]
    assert key[3] == 8
    assert key[1] == max(key)
    assert found.cost(key) <= budget


def test_what_is_found_is_within_the_budget_and_no_worse_than_simpler_ways():
    found = search()
    budget = (found.cost(found.whole) + found.cost((8, 8, 8, 8))) // 2
    candidates = within(found, budget, evaluations=20)
    assert {one.name for one in candidates} == {"search", "evolution", "uniform", "rising", "falling"}
    assert all(one.cost <= budget for one in candidates)
    by_name = {one.name: one.divergence for one in candidates}
    assert by_name["search"] <= min(by_name[name] for name in ("uniform", "rising", "falling"))
    assert [one.divergence for one in candidates] == sorted(by_name.values())


def test_the_same_seed_finds_the_same():
    budget = search().cost((16, 16, 16, 16))
    assert within(search(seed=3), budget, evaluations=10) == within(search(seed=3), budget, evaluations=10)


def test_mixed_widths_rise_or_fall():
    found = search()
    budget = found.cost((16, 16, 24, 24))
    assert found.mixed(budget, rising=True) == (16, 16, 24, 24)
    assert found.mixed(budget, rising=False) == (24, 24, 16, 16)
    assert found.uniform(budget) == (16, 16, 16, 16)


def test_with_all_of_the_costs_nothing_is_lost():
    found = search()
    key = found.solve(found.cost(found.whole))[0]
    assert key[:3] == found.whole[:3]
    assert found.divergence(key) == pytest.approx(0.0, abs=1e-9)
    assert found.divergence(found.whole) == pytest.approx(0.0, abs=1e-9)


def test_a_budget_below_the_smallest_submodel():
    found = search()
    least = found.cost((8, 8, 8, 8))
    assert found.solve(least) == [(8, 8, 8, 8)]
    with pytest.raises(
        EdgevitError, match=rf"the budget of {least - 1:,} cannot be met: .* has {least:,}, 1 more"
    ):
        found.solve(least - 1)
    assert found.uniform(least - 1) is None
    assert found.mixed(least - 1, rising=True) is None


def test_a_program_that_is_not_nested():
    with pytest.raises(EdgevitError, match="is not nested"):
        places_of(extract(nested(), {}))
