"""Solvers with less than they need for the best: what they give is a way, and the bound is one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.planning.bottleneck import least_bottleneck
from edgevit.planning.routes import Step, Sums, Tables
from edgevit.planning.shortest import least_sum


@st.composite
def tables(draw, *, adding: bool):
    kinds, nodes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    ahead = np.triu(np.ones((nodes, nodes), dtype=bool), 1)
    possible = random.random((kinds, nodes, nodes)) < draw(st.sampled_from([0.5, 0.9]))
    stage = np.where(ahead & possible, random.integers(0, 30, (kinds, nodes, nodes)).astype(float), math.inf)
    counts = tuple(draw(st.lists(st.integers(0, 2), min_size=kinds, max_size=kinds)))
    if not adding:
        return Tables(counts, peaks=stage)
    return Tables(counts, sums=Sums(stage, random.integers(0, 9, (nodes, kinds, kinds)).astype(float)))


def every_cost(of: Tables) -> list[float]:
    stage = of.peaks if of.sums is None else of.sums.stage
    last = stage.shape[1] - 1
    found = []
    for size in range(1, last + 1):
        for inner in itertools.combinations(range(1, last), size - 1):
            for kinds in itertools.product(range(len(of.counts)), repeat=size):
                if any(kinds.count(kind) > count for kind, count in enumerate(of.counts)):
                    continue
                places = (0, *inner, last)
                steps = [Step(*step) for step in zip(kinds, places, places[1:], strict=False)]
                found.append(of.cost(steps))
    return [cost for cost in found if math.isfinite(cost)]


def assert_is_a_way(route, of: Tables) -> None:
    assert [step.start for step in route.steps[1:]] == [step.end for step in route.steps[:-1]]
    used = [step.kind for step in route.steps]
    assert all(used.count(kind) <= count for kind, count in enumerate(of.counts))
    assert route.cost == of.cost(route.steps)


@settings(max_examples=200, deadline=None)
@given(tables(adding=False))
def test_the_least_bottleneck_is_least(given_tables):
    """Steps that no model has, shorter ones costlier than longer ones: nothing is taken for granted."""
    every, route = every_cost(given_tables), least_bottleneck(given_tables)
    assert (route is None) == (not every)
    if route is not None:
        assert_is_a_way(route, given_tables)
        assert route.cost == route.bound == min(every)


@settings(max_examples=200, deadline=None)
@given(tables(adding=True))
def test_the_least_sum_is_least(given_tables):
    every, route = every_cost(given_tables), least_sum(given_tables)
    assert (route is None) == (not every)
    if route is not None:
        assert_is_a_way(route, given_tables)
        assert route.cost == route.bound == pytest.approx(min(every))


@settings(max_examples=200, deadline=None)
@given(tables(adding=False), st.integers(2, 6))
def test_with_few_sets_of_devices_the_bound_holds(given_tables, most_sets):
    every, route = every_cost(given_tables), least_bottleneck(given_tables, most_sets)
    if route is not None:
        assert_is_a_way(route, given_tables)
        assert route.bound <= min(every) <= route.cost


@settings(max_examples=200, deadline=None)
@given(tables(adding=True))
def test_with_little_work_the_bound_holds(given_tables):
    every, route = every_cost(given_tables), least_sum(given_tables, most_work=0)
    if route is not None:
        assert_is_a_way(route, given_tables)
        assert route.bound <= min(every) + 1e-9
        assert min(every) <= route.cost + 1e-9


def test_twenty_devices_that_all_differ_get_a_plan_and_a_bound():
    random = np.random.default_rng(3)
    speed = random.uniform(0.5, 4.0, 20)
    seconds = np.cumsum(random.uniform(0.01, 0.1, 40))
    between = np.concatenate([[0.0], seconds])
    stage = np.where(np.triu(np.ones((41, 41), dtype=bool), 1), between[None] - between[:, None], math.inf)
    route = least_bottleneck(Tables((1,) * 20, peaks=speed[:, None, None] * stage), 2**10)
    assert_is_a_way(route, Tables((1,) * 20, peaks=speed[:, None, None] * stage))
    assert 0 < route.bound <= route.cost < 1.3 * route.bound
