"""Pipelines: as good as trying everything, with the certificate that says so."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.planning.pipelines import best_pipelines, best_single
from edgevit.planning.problem import OBJECTIVES, Chain, Cut, Host, Problem, Segment, Wire

from .instances import costs, distinct_costs, hosts, problems

objectives = pytest.mark.parametrize("objective", OBJECTIVES)
MANY = settings(max_examples=300, deadline=None)


def plain(seconds: dict[str, tuple[float, ...]], sizes: tuple[float, ...], **choices) -> Problem:
    """Hosts that differ in their times, on lines of one byte a second."""
    count = len(sizes) - 1
    return Problem(
        Chain(
            tuple(Segment(f"s{i}", 1.0) for i in range(count)),
            tuple(Cut(f"c{i}", (Wire("fp32", size),)) for i, size in enumerate(sizes)),
        ),
        tuple(Host(name, times, bandwidth=1.0, **choices) for name, times in seconds.items()),
    )


@objectives
@MANY
@given(problems())
def test_it_is_as_good_as_trying_everything(objective, problem):
    every = costs(problem, objective)
    best = best_pipelines(problem, objective)
    assert bool(best) == bool(every)
    if best:
        assert best[0].prediction.of(objective) == pytest.approx(every[0])
        assert best[0].certificate.value == pytest.approx(every[0])
        assert best[0].certificate.optimal


@objectives
@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(2, 6))
def test_the_best_few_are_the_best_few(objective, problem, count):
    every = distinct_costs(problem, objective)
    best = best_pipelines(problem, objective, count)
    assert [each.prediction.of(objective) for each in best] == pytest.approx(every[:count])


@objectives
@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_another_device_never_makes_it_worse(objective, problem, data):
    more = data.draw(hosts("more", len(problem.chain.segments)))
    best = best_pipelines(problem, objective)
    better = best_pipelines(replace(problem, hosts=(*problem.hosts, more)), objective)
    if best:
        assert better[0].certificate.value <= best[0].certificate.value + 1e-9


@objectives
@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([0.5, 4.0]))
def test_times_that_grow_together_grow_the_optimum(objective, problem, factor):
    slower = replace(
        problem,
        hosts=tuple(
            replace(
                host,
                seconds=tuple(factor * value for value in host.seconds),
                joules=tuple(factor * value for value in host.joules or ()),
                bandwidth=host.bandwidth / factor,
                latency=factor * host.latency,
                joules_per_byte=factor * host.joules_per_byte,
                conversion=None if host.conversion is None else host.conversion / factor,
            )
            for host in problem.hosts
        ),
        media=tuple(replace(medium, bandwidth=medium.bandwidth / factor) for medium in problem.media),
    )
    values = [[each.certificate.value for each in best_pipelines(p, objective, 3)] for p in (problem, slower)]
    assert values[1] == pytest.approx([factor * value for value in values[0]])


@objectives
@settings(max_examples=60, deadline=None)
@given(problems())
def test_names_change_nothing(objective, problem):
    new = {host.name: f"renamed-{host.name}" for host in problem.hosts}
    other = replace(
        problem,
        hosts=tuple(replace(host, name=new[host.name]) for host in problem.hosts),
        source=new.get(problem.source),
        sink=new.get(problem.sink),
        pins=tuple(replace(pin, host=new[pin.host]) for pin in problem.pins),
    )
    before, after = best_pipelines(problem, objective, 2), best_pipelines(other, objective, 2)
    assert [[replace(stage, host=new[stage.host]) for stage in each.stages] for each in before] == [
        list(each.stages) for each in after
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6), st.randoms())
def test_a_planted_optimum_is_found(groups, random):
    """Each host does its own segments in one second together, all others in far more: that is the best."""
    order = list(range(len(groups)))
    random.shuffle(order)
    owners = [owner for owner, group in enumerate(groups) for _ in group]
    shares = [share / sum(group) for group in groups for share in group]
    seconds = {
        f"h{host}": tuple(
            share if owner == host else 100.0 for owner, share in zip(owners, shares, strict=True)
        )
        for host in order
    }
    best = best_pipelines(plain(seconds, (0.0,) * (len(shares) + 1)), "throughput")[0]
    assert best.prediction.bottleneck == pytest.approx(1.0)
    assert [stage.host for stage in best.stages] == [f"h{host}" for host in range(len(groups))]


@objectives
@settings(max_examples=60, deadline=None)
@given(problems())
def test_a_single_device_is_the_best_pipeline_of_one_stage(objective, problem):
    single = best_single(problem, objective)
    ones = [
        cost
        for host in problem.hosts
        for cost in costs(
            replace(
                problem,
                hosts=tuple(
                    other
                    if other.name == host.name
                    else replace(other, seconds=(float("inf"),) * len(other.seconds))
                    for other in problem.hosts
                ),
            ),
            objective,
        )
    ]
    assert (single is None) == (not ones)
    if single is not None:
        assert single.certificate.value == pytest.approx(min(ones))


def test_a_slow_line_keeps_work_together():
    problem = plain({"a": (1.0, 1.0), "b": (1.0, 1.0)}, (0.0, 10.0, 0.0))
    assert [stage.host for stage in best_pipelines(problem, "throughput")[0].stages] == ["a"]


def test_narrow_elements_let_work_be_divided():
    cuts = (
        Cut("in", (Wire("fp32", 0.0),)),
        Cut("middle", (Wire("fp32", 4.0), Wire("int8", 1.0))),
        Cut("out", (Wire("fp32", 0.0),)),
    )
    chain = Chain((Segment("a", 0.0), Segment("b", 0.0)), cuts)
    two = [Host(name, (1.5, 1.5), bandwidth=1.0) for name in "ab"]
    best = best_pipelines(Problem(chain, tuple(two)), "throughput")[0]
    assert (len(best.stages), best.stages[0].sent.precision, best.prediction.bottleneck) == (2, "int8", 1.5)


def test_conversions_that_cost_more_than_they_save_are_not_done():
    cuts = (
        Cut("in", (Wire("fp32", 0.0),)),
        Cut("middle", (Wire("fp32", 4.0), Wire("int8", 1.0))),
        Cut("out", (Wire("fp32", 0.0),)),
    )
    chain = Chain((Segment("a", 0.0), Segment("b", 0.0)), cuts)
    two = [Host(name, (9.0, 9.0), bandwidth=1.0, conversion=0.1) for name in "ab"]
    best = best_pipelines(Problem(chain, tuple(two)), "throughput")[0]
    assert best.stages[0].sent.precision == "fp32"


def test_energy_that_is_not_known_is_not_guessed():
    with pytest.raises(EdgevitError, match=r"^device a: how much energy it takes is not known; give watts"):
        best_pipelines(plain({"a": (1.0,)}, (0.0, 0.0)), "energy")


def test_devices_that_are_alike_are_many_and_quick():
    """Fifty of five kinds: as many sets as 161,051, not 2^50."""
    speeds = dict(zip("abcde", (1.0, 1.5, 2.0, 3.0, 4.0), strict=True))
    seconds = {
        f"{kind}{i}": tuple(speed * (1 + place % 3) for place in range(60))
        for (kind, speed), i in itertools.product(speeds.items(), range(10))
    }
    best = best_pipelines(plain(seconds, (0.0,) * 61), "throughput")[0]
    assert best.certificate.optimal
    assert best.prediction.bottleneck == pytest.approx(max(stage.seconds for stage in best.stages))
