"""Which layers are not worth quantizing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quant.sensitivity import LayerSensitivity
from edgevit.quant.sparing import bargains, outliers

divergences = st.lists(st.floats(0, 10), max_size=30)


def found_at(numbers: list[float]) -> list[LayerSensitivity]:
    return [LayerSensitivity(f"layer{index}", "", number, 0.0) for index, number in enumerate(numbers)]


@settings(max_examples=100, deadline=None)
@given(divergences)
def test_outliers_are_the_largest_and_each_holds_its_share(numbers):
    found = found_at(numbers)
    names = outliers(found)
    ranked = sorted(numbers, reverse=True)
    by_name = {item.layer: item.divergence for item in found}
    assert [by_name[name] for name in names] == ranked[: len(names)]
    for index, name in enumerate(names):
        assert by_name[name] > max(1e-3, 0.25 * sum(ranked[index:]))


@settings(max_examples=100, deadline=None)
@given(divergences)
def test_some_layers_are_never_outliers(numbers):
    assert len(outliers(found_at(numbers))) <= max(0, len(numbers) - 4)


def test_a_layer_that_stands_out_is_found_wherever_it_is():
    assert outliers(found_at([0.02, 0.01, 3.0, 0.02, 0.01, 0.02, 0.015, 0.01])) == ["layer2"]


def test_damage_that_is_spread_or_small_has_no_outlier():
    assert outliers(found_at([0.5] * 12)) == []
    assert outliers(found_at([0.9e-3] + [1e-6] * 12)) == []
    assert outliers([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1000)), max_size=30))
def test_bargains_cost_little_and_no_better_one_is_left_that_could_be_paid(layers):
    found, costs = found_at([d for d, _ in layers]), {f"layer{i}": m for i, (_, m) in enumerate(layers)}
    names = bargains(found, costs)
    taken = [item for item in found if item.layer in names]
    others = [item for item in found if item.layer not in names]
    spent, whole = sum(costs[item.layer] for item in taken), sum(costs.values())
    assert spent <= 0.12 * whole + 1e-9
    if sum(item.divergence for item in others) > 1e-3 + 1e-9:
        assert all(costs[item.layer] > 0.12 * whole - spent - 1e-9 for item in others)


def test_the_cheaper_of_two_that_do_the_same_damage_is_float():
    found, costs = found_at([0.0, 0.01, 0.01]), {"layer0": 10_000, "layer1": 300, "layer2": 100}
    assert bargains(found, costs) == ["layer2", "layer1"]
    assert bargains(found, costs, share=0.02) == ["layer2"]


def test_where_all_do_little_nothing_is_float():
    found = found_at([0.4e-4] * 20)
    assert bargains(found, dict.fromkeys((item.layer for item in found), 1)) == []
