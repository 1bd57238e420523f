"""Problems that cannot be are refused, and simpler ways to divide a chain are never better than the best."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.planning.baselines import equal_split, greedy, split_at
from edgevit.planning.pipeedge import read_pipeedge
from edgevit.planning.pipelines import best_pipelines
from edgevit.planning.problem import Chain, Cut, Host, Medium, Pin, Problem, Segment, Wire

from .instances import problems
from .test_pipeedge import CASE

CUT = Cut("c", (Wire("fp32", 1.0),))
CHAIN = Chain((Segment("s", 1.0),), (CUT, CUT))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Segment("s", -1.0), "segment s: weight_bytes must be at least 0 and finite"),
        (lambda: Segment("s", 1.0, math.inf), "segment s: peak_bytes must be at least 0 and finite"),
        (lambda: Cut("c", (Wire("fp32", math.nan),)), "cut c: bytes must be at least 0 and finite"),
        (lambda: Chain((), (CUT,)), "segments: there are none"),
        (lambda: Chain((Segment("s", 1.0),), (CUT,)), "cuts: 1 segments have 2, not 1"),
        (lambda: Host("h", (-1.0,)), "device h: seconds must be at least 0"),
        (lambda: Host("h", (1.0,), bandwidth=0.0), "device h: bandwidth and conversion must be above 0"),
        (lambda: Host("h", (1.0,), memory_bytes=-1.0), "device h: memory_bytes must be at least 0"),
        (lambda: Medium("m", math.inf), "network m: bandwidth must be above 0 and finite"),
        (lambda: Problem(CHAIN, ()), "devices: there are none"),
        (lambda: Problem(CHAIN, (Host("h", (1.0,)),) * 2), "device h: 2 are called so"),
        (lambda: Problem(CHAIN, (Host("h", (1.0, 2.0)),)), "device h: seconds has 2 values; the model has 1"),
        (lambda: Problem(CHAIN, (Host("h", (1.0,)),), source="g"), "input: 'g' is no device; known: h"),
        (lambda: Problem(CHAIN, (Host("h", (1.0,), medium="m"),)), "device h: 'm' is no shared network"),
        (lambda: Problem(CHAIN, (Host("h", (1.0,)),), pins=(Pin("g", 0, 0),)), "pinned: 'g' is no device"),
        (
            lambda: Problem(CHAIN, (Host("h", (1.0,)),), pins=(Pin("h", 0, 1),)),
            "pinned: segments 0 to 1 of h",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        make()


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([equal_split, greedy]))
def test_simpler_ways_are_never_better(problem, way):
    # In a chain whose times are not all nothing: speeds are shares of something.
    hosts = tuple(
        replace(host, seconds=tuple(value + 1 for value in host.seconds), medium=None)
        for host in problem.hosts
    )
    busy = replace(problem, hosts=hosts, media=(), pins=())
    found = way(busy)
    if found is not None:
        assert found.bottleneck >= best_pipelines(busy, "throughput")[0].prediction.bottleneck - 1e-9


@pytest.mark.skipif(not CASE.is_dir(), reason="needs ../shared/cases")
def test_pipeedges_published_plan_comes_to_what_is_known_of_it():
    problem = read_pipeedge(CASE)
    hosts = [
        problem.host(name) for name in ["mb-0", "mb-1", "mb-2", "mb-3", "rcc-0", "rcc-1", "rcc-2", "rcc-3"]
    ]
    assert split_at(problem, hosts, range(0, 49, 6)).bottleneck == pytest.approx(1.726248, abs=1e-6)


def test_a_split_for_which_there_is_no_room_comes_to_nothing():
    small = Problem(CHAIN, (Host("h", (1.0,), memory_bytes=0.5),))
    assert split_at(small, small.hosts, (0, 1)) is None


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_with_two_shared_networks_the_bound_holds(problem, data):
    """A way that is best along one of them may load the other: then the certificate says by how much."""
    second = Medium("cable", data.draw(st.sampled_from([0.5, 2.0])))
    on = st.sampled_from(["radio", "cable", None])
    hosts = tuple(replace(host, medium=data.draw(on)) for host in problem.hosts)
    both = replace(problem, hosts=hosts, media=(*problem.media, second))
    one = replace(
        both, hosts=tuple(replace(h, medium="radio" if h.medium == "radio" else None) for h in hosts)
    )
    found, easier = best_pipelines(both, "throughput"), best_pipelines(one, "throughput")
    assert bool(found) == bool(easier)
    if found:
        certificate = found[0].certificate
        assert easier[0].certificate.value <= certificate.value + 1e-9
        assert certificate.bound <= certificate.value
        # Nothing that tries all ways at random may be below the bound.
        for other in best_pipelines(both, "latency", 5):
            assert other.prediction.bottleneck >= certificate.bound - 1e-9
