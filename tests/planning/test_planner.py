"""Plans of every mode compared, and what is done when a device is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from edgevit.errors import EdgevitError
from edgevit.planning.modes import Work
from edgevit.planning.pipelines import busy_seconds, transfers_of
from edgevit.planning.planner import make_plan
from edgevit.planning.problem import (
    OBJECTIVES,
    Chain,
    Cut,
    Ensemble,
    Host,
    Medium,
    Pin,
    Problem,
    Segment,
    Wire,
)
from edgevit.planning.replicas import best_replicas

from .instances import costs, problems

objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def of(hosts: list[Host], sizes: tuple[float, ...] = (0.0, 0.0), **choices) -> Problem:
    chain = Chain(
        tuple(Segment(f"s{i}", 1.0) for i in range(len(sizes) - 1)),
        tuple(Cut(f"c{i}", (Wire("fp32", size),)) for i, size in enumerate(sizes)),
    )
    return Problem(chain, tuple(hosts), **choices)


# --- replicas ---------------------------------------------------------------------------------------------


def test_replicas_share_by_speed():
    found = best_replicas(of([Host("fast", (1.0,)), Host("slow", (3.0,))]))
    assert found.shares == pytest.approx((0.75, 0.25))
    assert found.prediction.bottleneck == pytest.approx(0.75)
    assert found.certificate.optimal


def test_a_line_that_all_items_pass_limits_replicas():
    hosts = [
        Host("camera", (10.0,), bandwidth=1.0),
        *(Host(f"b{i}", (1.0,), bandwidth=9.0) for i in range(5)),
    ]
    found = best_replicas(of(hosts, (2.0, 0.0), source="camera"))
    # What the camera computes itself does not pass its line: r = 0.1 + 0.5 a second.
    assert found.prediction.bottleneck == pytest.approx(1 / 0.6)


def test_a_shared_medium_limits_replicas():
    hosts = [Host("camera", (9.0,), medium="air"), *(Host(f"b{i}", (1.0,), medium="air") for i in range(5))]
    found = best_replicas(of(hosts, (2.0, 0.0), source="camera", media=(Medium("air", 4.0),)))
    assert found.prediction.bottleneck == pytest.approx(1 / (1 / 9 + 2))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_replicas_are_never_worse_than_one_device_and_load_nothing_more_than_they_say(problem):
    found = best_replicas(problem)
    outcome = None
    try:
        outcome = make_plan(Work(problem), "throughput", modes=("single",), losses=False)
    except EdgevitError:
        assert found is None
        return
    assert found.prediction.bottleneck <= outcome.best.prediction.bottleneck + 1e-6
    assert sum(found.shares) == pytest.approx(1.0)
    busy: dict[object, float] = {}
    for copy, share in zip(found.copies, found.shares, strict=True):
        (stage,) = copy.stages
        busy[stage.host] = share * stage.seconds
        for key, value in busy_seconds(problem, transfers_of(problem, copy.stages)).items():
            busy[key] = busy.get(key, 0.0) + share * value
    assert max(busy.values()) == pytest.approx(found.prediction.bottleneck)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_shares_drawn_by_chance_are_better(problem):
    found = best_replicas(problem)
    if found is None:
        return
    one_each = {}
    for host in problem.hosts:
        alone = best_replicas(
            replace(
                problem,
                hosts=tuple(
                    other
                    if other.name == host.name
                    else replace(other, seconds=(float("inf"),) * len(other.seconds))
                    for other in problem.hosts
                ),
            )
        )
        if alone is not None:
            one_each[host.name] = alone.copies[0]
    random = np.random.default_rng(0)
    for _ in range(20):
        shares = random.dirichlet(np.full(len(one_each), 0.5))
        busy: dict[object, float] = {}
        for copy, share in zip(one_each.values(), shares, strict=True):
            busy["computes", copy.stages[0].host] = share * copy.stages[0].seconds
            for key, value in busy_seconds(problem, transfers_of(problem, copy.stages)).items():
                busy[key] = busy.get(key, 0.0) + share * value
        assert max(busy.values()) >= found.prediction.bottleneck - 1e-6


# --- modes ------------------------------------------------------------------------------------------------


@objectives
@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_best_of_all_modes_is_no_worse_than_any_pipeline(objective, problem):
    every = costs(problem, objective)
    if not every:
        with pytest.raises(EdgevitError, match=r"^(memory|pinned): "):
            make_plan(Work(problem), objective)
        return
    outcome = make_plan(Work(problem), objective, top=3)
    assert outcome.value(outcome.best) <= every[0] + 1e-6
    for plan in outcome.alternatives:
        assert outcome.value(plan) >= outcome.value(outcome.best) - 1e-9
    assert len({outcome.best.tasks, *(plan.tasks for plan in outcome.alternatives)}) == 1 + len(
        outcome.alternatives
    )


def test_one_device_is_chosen_where_several_are_no_better():
    outcome = make_plan(
        Work(of([Host("a", (1.0, 1.0), bandwidth=1.0), Host("b", (9.0, 9.0), bandwidth=1.0)], (0, 50.0, 0))),
        "latency",
    )
    assert (outcome.best.mode, outcome.best.hosts) == ("single", ("a",))
    assert outcome.gain == pytest.approx(1.0)


def test_an_ensemble_is_compared_with_the_whole():
    hosts = [Host("a", (4.0,)), Host("b", (4.0,))]
    parts = of([replace(host, seconds=(1.0, 1.0)) for host in hosts], (0.0,) * 3)
    outcome = make_plan(Work(of(hosts), Ensemble(parts, (0.0, 0.0))), "latency")
    assert outcome.best.mode == "ensemble"
    assert outcome.gain == pytest.approx(4.0)
    assert [each.mode for each in outcome.compared] == ["single", "pipeline", "ensemble"]


def test_an_impossible_mode_says_why():
    outcome = make_plan(
        Work(of([Host("a", (1.0, 1.0), 1.0), Host("b", (1.0, 1.0), 1.0)], (0.0,) * 3)), "latency"
    )
    single, pipeline = outcome.compared
    assert (single.plan, pipeline.plan is outcome.best) == (None, True)
    assert single.reason == "memory or pins: no device can run the whole model"
    assert outcome.gain is None


# --- losses -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(problems())
def test_a_lost_device_leaves_the_best_plan_of_the_others(problem):
    if not costs(problem, "latency"):
        return
    outcome = make_plan(Work(problem), "latency")
    assert [loss.host for loss in outcome.losses] == [host.name for host in problem.hosts]
    for loss in outcome.losses:
        left = problem.without(loss.host)
        every = [] if left is None else costs(left, "latency")
        twin = next((other for other in outcome.losses if other.host == loss.like), loss)
        assert (twin.plan is None) == (not every)
        if every:
            assert outcome.value(twin.plan) == pytest.approx(every[0])
            assert twin.host not in twin.plan.hosts or twin.plan is outcome.best
        else:
            assert loss.reason


def test_devices_that_are_alike_are_lost_alike():
    outcome = make_plan(Work(of([Host(f"h{i}", (1.0,)) for i in range(4)])), "throughput")
    assert [loss.like for loss in outcome.losses] == [None, "h0", "h0", "h0"]


def test_the_device_with_the_images_cannot_be_lost():
    outcome = make_plan(Work(of([Host("a", (1.0,)), Host("b", (1.0,))], source="a")), "latency")
    assert outcome.losses[0].reason == "a has the images"


def test_pins_bind_every_mode():
    hosts = [Host("camera", (5.0, 5.0)), Host("board", (1.0, 1.0))]
    outcome = make_plan(Work(of(hosts, (0.0,) * 3, pins=(Pin("camera", 0, 0),))), "throughput")
    assert outcome.best.hosts == ("camera", "board")
    assert {each.plan.hosts[0] for each in outcome.compared if each.plan} == {"camera"}
