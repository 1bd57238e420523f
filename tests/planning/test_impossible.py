"""Where there is no plan, the constraint that forbids it is named."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings

from edgevit.planning.impossible import why_impossible
from edgevit.planning.problem import Chain, Cut, Host, Pin, Problem, Segment, Wire

from .instances import candidates, costs, possible, problems, spans


def of(hosts: list[Host], weights: tuple[float, ...], pins: tuple[Pin, ...] = ()) -> Problem:
    chain = Chain(
        tuple(Segment(f"s{i}", weight) for i, weight in enumerate(weights)),
        tuple(Cut(f"c{i}", (Wire("fp32", 0.0),)) for i in range(len(weights) + 1)),
    )
    return Problem(chain, tuple(hosts), pins=pins)


def lacking(problem: Problem) -> float:
    """Bytes that the best of all pipelines has too many, pins met."""
    roomy = replace(problem, hosts=tuple(replace(host, memory_bytes=math.inf) for host in problem.hosts))
    limit = {host.name: host.memory_bytes for host in problem.hosts}
    segments, cuts = problem.chain.segments, problem.chain.cuts
    return min(
        sum(
            max(
                sum(s.weight_bytes for s in segments[start:end])
                + max(s.peak_bytes for s in segments[start:end])
                + cuts[start].entering_bytes
                + cuts[end].leaving_bytes
                - limit[host.name],
                0.0,
            )
            for host, start, end in spans(each)
        )
        for each in candidates(roomy)
        if possible(roomy, each)
    )


@settings(max_examples=200, deadline=None)
@given(problems())
def test_what_is_named_is_what_forbids(problem):
    tight = replace(
        problem,
        hosts=tuple(replace(host, memory_bytes=min(host.memory_bytes, 4.0)) for host in problem.hosts),
    )
    if costs(tight, "latency"):
        return
    sentence = why_impossible(tight)
    roomy = replace(tight, hosts=tuple(replace(host, memory_bytes=math.inf) for host in tight.hosts))
    if costs(roomy, "latency"):
        found = re.search(r"^memory: .*?, ([\d,]+) bytes are lacking at the least \(h\d would need", sentence)
        assert found is not None, sentence
        assert float(found[1].replace(",", "")) == pytest.approx(lacking(tight), abs=0.5)
    else:
        assert sentence.startswith("pinned: ")


def test_the_device_that_lacks_most_is_named():
    hosts = [Host("pi-1", (1.0, 1.0), 1500.0), Host("pi-2", (1.0, 1.0), 3000.0)]
    assert why_impossible(of(hosts, (1000.0, 5000.0))) == (
        "memory: however the model is divided, 2,000 bytes are lacking at the least (pi-2 would need 5,000 "
        "and has 3,000); compress the model, or add a device"
    )


def test_pins_that_take_turns_are_named():
    hosts = [Host(name, (1.0,) * 3) for name in "ab"]
    pins = (Pin("a", 0, 0), Pin("b", 1, 1), Pin("a", 2, 2))
    assert re.match(
        r"pinned: s0 may not leave a, and then nothing", why_impossible(of(hosts, (1.0,) * 3, pins))
    )


def test_pins_that_only_together_forbid_are_named():
    hosts = [Host(name, (1.0,) * 4) for name in "ab"]
    pins = tuple(Pin(name, place, place) for place, name in enumerate("abab"))
    assert why_impossible(of(hosts, (1.0,) * 4, pins)).startswith("pinned: ")


@pytest.mark.parametrize("seconds", list(itertools.permutations((1.0, math.inf))))
def test_a_segment_that_nothing_runs_is_named(seconds):
    place = seconds.index(math.inf)
    assert why_impossible(of([Host("a", seconds)], (1.0, 1.0))) == (
        f"seconds: no device can run s{place}; add one that can"
    )


def test_pieces_that_no_division_gives_are_said():
    hosts = [Host("a", (1.0, math.inf, 1.0)), Host("b", (math.inf, 1.0, math.inf))]
    assert why_impossible(of(hosts, (1.0,) * 3)).startswith("seconds: no division gives each device")
