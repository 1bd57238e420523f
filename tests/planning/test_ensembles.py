"""Parts on devices: as good as trying everything, for every objective; what memory lacks is said."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.planning.ensembles import best_placement, why_impossible
from edgevit.planning.problem import OBJECTIVES, Chain, Cut, Ensemble, Host, Problem, Segment, Wire
from edgevit.pruning.assignment import Device, Load, assign

from .instances import RADIO, problems

objectives = pytest.mark.parametrize("objective", OBJECTIVES)


@st.composite
def ensembles(draw) -> Ensemble:
    problem = replace(draw(problems()), pins=())
    count = len(problem.chain.segments)
    sizes = st.sampled_from([0.0, 1.0, 3.0])
    sent = tuple(draw(st.lists(sizes, min_size=count, max_size=count)))
    return Ensemble(problem, sent, draw(st.sampled_from([0.0, 2.0])))


def excess(ensemble: Ensemble, placed: dict[str, list[int]]) -> float:
    segments, total = ensemble.problem.chain.segments, 0.0
    for host in ensemble.problem.hosts:
        own = [segments[part] for part in placed.get(host.name, [])]
        needed = sum(s.weight_bytes for s in own) + max((s.peak_bytes for s in own), default=0)
        total += max(needed - host.memory_bytes, 0.0)
    return total


def cost(ensemble: Ensemble, placed: dict[str, list[int]], objective: str) -> float:
    problem = ensemble.problem
    named = {host.name: host for host in problem.hosts}
    source, sink = named.get(problem.source), named.get(problem.sink)
    asked = [(source, named[n], ensemble.asked_bytes) for n in placed if source not in {None, named[n]}]
    answered = [
        (named[n], sink, sum(ensemble.sent_bytes[p] for p in own))
        for n, own in placed.items()
        if sink not in {None, named[n]}
    ]
    computing = [sum(named[n].seconds[p] for p in own) for n, own in placed.items()]
    if objective == "energy":
        joules = sum(named[n].joules[p] for n, own in placed.items() for p in own)
        return joules + sum(b * (s.joules_per_byte + r.joules_per_byte) for s, r, b in asked + answered)
    if objective == "throughput":
        return max(*computing, ensemble.fusion_seconds, *busy(asked + answered), 0.0)
    phases = [
        max(busy(each), default=0.0) + max((s.latency + r.latency for s, r, _ in each), default=0.0)
        for each in (asked, answered)
    ]
    return max(computing) + sum(phases) + ensemble.fusion_seconds


def busy(transfers) -> list[float]:
    lines: dict[object, float] = {}
    for sender, receiver, size in transfers:
        for key, bandwidth in (
            (("out", sender.name), sender.bandwidth),
            (("in", receiver.name), receiver.bandwidth),
        ):
            lines[key] = lines.get(key, 0.0) + size / bandwidth
        if RADIO.name in {sender.medium, receiver.medium}:
            lines["radio"] = lines.get("radio", 0.0) + size / RADIO.bandwidth
    return list(lines.values())


def placements(ensemble: Ensemble):
    names = [host.name for host in ensemble.problem.hosts]
    for chosen in itertools.product(names, repeat=len(ensemble.sent_bytes)):
        yield {name: [p for p, at in enumerate(chosen) if at == name] for name in names if name in chosen}


@objectives
@settings(max_examples=300, deadline=None)
@given(ensembles())
def test_it_is_as_good_as_trying_everything(objective, ensemble):
    every = list(placements(ensemble))
    costs = [cost(ensemble, placed, objective) for placed in every if excess(ensemble, placed) == 0]
    found = best_placement(ensemble, objective)
    assert (found is None) == (not costs)
    if found is not None:
        assert found.certificate.value == pytest.approx(min(costs))
        assert found.certificate.optimal
        return
    said = re.search(
        r"^memory: .*, ([\d,]+) bytes are lacking at the least \(h\d would", why_impossible(ensemble)
    )
    assert said is not None
    lacking = min(excess(ensemble, placed) for placed in every)
    assert float(said[1].replace(",", "")) == pytest.approx(lacking, abs=0.51)


def test_without_lines_it_is_the_assignment_of_pruning():
    loads = [Load(f"m{i}", 100 + 37 * i % 101, 50 + 53 * i % 97) for i in range(10)]
    devices = [Device(f"d{i}", 1.0 + i % 3, 300) for i in range(4)]
    problem = Problem(
        Chain(
            tuple(Segment(load.name, load.bytes) for load in loads),
            tuple(Cut(f"c{i}", (Wire("fp32", 0.0),)) for i in range(11)),
        ),
        tuple(
            Host(d.name, tuple(load.macs / d.macs_per_second for load in loads), float(d.memory_bytes))
            for d in devices
        ),
    )
    found = best_placement(Ensemble(problem, (0.0,) * 10), "throughput")
    assert found.certificate.value == pytest.approx(assign(loads, devices).latency, rel=1e-6)


@given(st.sampled_from([1e-6, 1e-3, 1e3]))
@settings(max_examples=3, deadline=None)
def test_milliseconds_are_told_apart_as_well_as_seconds(unit):
    seconds = ((3.0, 3.0, 2.0, 2.0, 2.0), (3.0003, 3.0001, 2.0002, 2.0001, 2.0))
    chain = Chain(
        tuple(Segment(f"m{i}", 1.0) for i in range(5)),
        tuple(Cut(f"c{i}", (Wire("fp32", 0.0),)) for i in range(6)),
    )
    hosts = tuple(Host(f"d{i}", tuple(unit * s for s in own)) for i, own in enumerate(seconds))
    found = best_placement(Ensemble(Problem(chain, hosts), (0.0,) * 5), "throughput")
    assert found.certificate.value / unit == pytest.approx(6.0003, abs=1e-9)
    assert found.certificate.optimal


def test_thirty_parts_are_placed():
    """More than can be placed by trying sets; with a bound that says how good it is."""
    chain = Chain(
        tuple(Segment(f"m{i}", 1.0) for i in range(30)),
        tuple(Cut(f"c{i}", (Wire("fp32", 0.0),)) for i in range(31)),
    )
    hosts = tuple(Host(f"d{i}", tuple(1.0 + (i * j) % 3 for j in range(30)), 12.0) for i in range(3))
    found = best_placement(Ensemble(Problem(chain, hosts), (0.0,) * 30), "throughput", seconds=20)
    assert 10.0 <= found.certificate.bound <= found.certificate.value
    assert found.certificate.gap < 0.05


def test_a_part_that_nothing_runs_is_said():
    chain = Chain((Segment("a", 1.0),), tuple(Cut(n, (Wire("fp32", 0.0),)) for n in "xy"))
    ensemble = Ensemble(Problem(chain, (Host("h", (math.inf,), 0.0),)), (0.0,))
    assert best_placement(ensemble, "latency") is None
    assert why_impossible(ensemble).startswith("seconds: there is a sub-model that no device can run")
