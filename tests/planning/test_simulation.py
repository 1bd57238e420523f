"""A simulated plan agrees with what was predicted of it, and loses nothing when a device is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from edgevit.errors import EdgevitError
from edgevit.planning.modes import MODES, Work
from edgevit.planning.plan_document import Artefacts, document
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.planner import make_plan
from edgevit.planning.problem import Chain, Cut, Host, Problem, Segment, Wire
from edgevit.planning.simulation import NOTICED, Scenario, simulate

from .instances import costs, problems
from .test_ensembles import ensembles


def planned(work: Work, objective: str = "throughput", modes=MODES) -> PlanFile:
    of = {host.name: ("onnx", "fp32") for host in work.problem.hosts}
    parts = () if work.ensemble is None else tuple(s.name for s in work.ensemble.problem.chain.segments)
    fusion = 0.0 if work.ensemble is None else work.ensemble.fusion_seconds
    outcome = make_plan(work, objective, modes=modes)
    return document(outcome, work.problem, Artefacts(of, parts), model="m", fusion_seconds=fusion)


def two(*seconds: float, **choices) -> Problem:
    chain = Chain(
        (Segment("a", 1.0), Segment("b", 1.0)),
        tuple(Cut(n, (Wire("fp32", 0.0),)) for n in ("in", "x", "out")),
    )
    return Problem(chain, tuple(Host(f"h{i}", (s / 2, s / 2), **choices) for i, s in enumerate(seconds)))


def settled(plan: PlanFile, requests: int = 300) -> float:
    """Seconds that another request takes when there are many, all at once."""
    more, fewer = (simulate(plan, Scenario(count)).seconds for count in (2 * requests, requests))
    return (more - fewer) / requests


@pytest.mark.parametrize("mode", ["single", "pipeline"])
@settings(max_examples=40, deadline=None)
@given(problems())
def test_it_agrees_with_the_analytic_bottleneck(mode, problem):
    if not costs(problem, "throughput"):
        return
    try:
        plan = planned(Work(problem), modes=(mode,))
    except EdgevitError:
        return
    assert settled(plan) == pytest.approx(plan.plan.bottleneck_seconds, rel=0.02, abs=1e-9)
    alone = simulate(plan, Scenario(1))
    assert alone.latencies[0] == pytest.approx(plan.plan.latency_seconds)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_replicas_agree_with_the_analytic_bottleneck(problem):
    try:
        plan = planned(Work(problem), modes=("replicas",))
    except EdgevitError:
        return
    if not plan.plan.bottleneck_seconds:
        # Nothing is ever busy: how many requests may be under way at once decides, and no device.
        return
    assert settled(plan, 2000) == pytest.approx(plan.plan.bottleneck_seconds, rel=0.05, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(ensembles())
def test_ensembles_agree_with_the_analytic_bottleneck(ensemble):
    try:
        plan = planned(Work(ensemble.problem, ensemble), modes=("ensemble",))
    except EdgevitError:
        return
    if not plan.plan.bottleneck_seconds:
        return
    assert settled(plan) == pytest.approx(plan.plan.bottleneck_seconds, rel=0.02, abs=1e-9)
    # Predicted are lines that are shared at once; here each serves in the order of arrival, so that the last
    # branch may wait for the others', no longer than they take there, on its way and on its way back.
    allowed = plan.plan.latency_seconds + 2 * plan.plan.bottleneck_seconds
    assert simulate(plan, Scenario(1)).latencies[0] <= allowed + 1e-9


def test_requests_that_come_seldom_wait_for_nothing():
    plan = planned(Work(two(1.0, 1.0)), modes=("pipeline",))
    result = simulate(plan, Scenario(50, rate=0.001))
    assert result.latencies == pytest.approx([plan.plan.latency_seconds] * 50)
    assert max(load.longest_queue for load in result.loads) == 0


def test_a_plan_that_is_asked_too_much_has_queues():
    plan = planned(Work(two(1.0, 1.0)), modes=("pipeline",))
    result = simulate(plan, Scenario(300, rate=4.0))
    assert result.loads[0].busy > 0.9
    assert result.loads[0].longest_queue > 1
    assert result.percentile(99) > 10 * plan.plan.latency_seconds


def test_jitter_spreads_times_and_leaves_their_mean():
    plan = planned(Work(two(1.0)), modes=("single",))
    result = simulate(plan, Scenario(4000, jitter=0.5, seed=3))
    assert result.seconds == pytest.approx(4000.0, rel=0.05)
    assert (
        simulate(plan, Scenario(200, jitter=0.5, seed=3)).latencies != simulate(plan, Scenario(200)).latencies
    )
    assert simulate(plan, Scenario(200, jitter=0.5, seed=3)) == simulate(
        plan, Scenario(200, jitter=0.5, seed=3)
    )


def test_a_lost_device_costs_time_and_no_answer():
    plan = planned(Work(two(1.0, 1.0)))
    whole, lost = simulate(plan, Scenario(100)), simulate(plan, Scenario(100, lost="h0", lost_at=10.25))
    assert lost.answered == 100
    assert lost.replayed > 0
    # Until then both, then one: what was under way is done again.
    done = sum(latency <= 10.25 for latency in whole.latencies)
    assert lost.seconds == pytest.approx(10.25 + NOTICED + (100 - done) * 1.0)
    assert all(load.busy <= 1 + 1e-9 for load in lost.loads)


def test_a_device_without_which_there_is_no_plan_leaves_requests_unanswered():
    plan = planned(Work(two(1.0)))
    result = simulate(plan, Scenario(10, lost="h0", lost_at=4.5))
    assert (result.answered, result.requests) == (4, 10)
    nothing = simulate(plan, Scenario(10, lost="h0", lost_at=0.1))
    assert nothing.answered == 0
    with pytest.raises(EdgevitError, match="no request was answered"):
        nothing.percentile(50)


def test_an_idle_device_is_lost_without_a_trace():
    chain_of_one = two(1.0, 50.0, memory_bytes=100.0)
    plan = planned(Work(chain_of_one), "latency")
    assert simulate(plan, Scenario(20, lost="h1", lost_at=3.0)) == simulate(plan, Scenario(20))


def test_a_device_that_is_unknown_cannot_be_lost():
    with pytest.raises(EdgevitError, match=r"says nothing of a lost 'h9'; known: h0, h1"):
        simulate(planned(Work(two(1.0, 1.0))), Scenario(1, lost="h9"))


def test_thousands_of_devices():
    plan = planned(Work(two(*[1.0] * 3000)))
    result = simulate(plan, Scenario(9000))
    assert result.answered == 9000
    assert result.seconds == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"requests": 0}, "requests: 0; at least 1"),
        ({"requests": 1, "rate": 0.0}, "rate: 0; must be above 0"),
        ({"requests": 1, "jitter": -1.0}, "jitter and the time of a loss must be at least 0"),
        ({"requests": 1, "lost_at": float("inf")}, "jitter and the time of a loss"),
    ],
)
def test_scenarios_that_cannot_be_are_refused(choices, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        Scenario(**choices)
