"""Small problems of every sort, and every plan of them: what the planner is compared with."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from hypothesis import strategies as st

from edgevit.planning.problem import Chain, Cut, Host, Medium, Pin, Problem, Segment, Wire

SECONDS = st.integers(0, 9).map(float)
SIZES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 6.0, 12.0])
SPEEDS = st.sampled_from([0.5, 1.0, 2.0, math.inf])
RADIO = Medium("radio", 1.5)


@st.composite
def chains(draw, segments: int) -> Chain:
    wires = [
        (Wire("fp32", size), *((Wire("int8", size / 4),) if draw(st.booleans()) else ()))
        for size in draw(st.lists(SIZES, min_size=segments + 1, max_size=segments + 1))
    ]
    return Chain(
        tuple(Segment(f"s{i}", draw(SIZES), draw(st.integers(0, 2))) for i in range(segments)),
        tuple(
            Cut(f"c{i}", ways, draw(st.integers(0, 1)), draw(st.integers(0, 1)))
            for i, ways in enumerate(wires)
        ),
    )


@st.composite
def hosts(draw, name: str, segments: int) -> Host:
    return Host(
        name=name,
        seconds=tuple(draw(st.lists(SECONDS, min_size=segments, max_size=segments))),
        memory_bytes=draw(st.sampled_from([4.0, 8.0, 16.0, math.inf])),
        bandwidth=draw(SPEEDS),
        latency=draw(st.sampled_from([0.0, 0.5])),
        joules=tuple(draw(st.lists(SECONDS, min_size=segments, max_size=segments))),
        joules_per_byte=draw(st.sampled_from([0.0, 0.25])),
        conversion=draw(st.sampled_from([None, 2.0])),
        medium=draw(st.sampled_from([None, None, RADIO.name])),
    )


@st.composite
def problems(draw) -> Problem:
    """Up to four hosts, some of them alike, and up to five segments."""
    segments = draw(st.integers(1, 5))
    first = draw(st.lists(hosts("h", segments), min_size=1, max_size=3))
    twins = first + first[: draw(st.integers(0, 1))]
    named = tuple(Host(**{**vars(host), "name": f"h{i}"}) for i, host in enumerate(twins))
    names = [host.name for host in named]
    pins = ()
    if draw(st.booleans()):
        start = draw(st.integers(0, segments - 1))
        pins = (Pin(draw(st.sampled_from(names)), start, draw(st.integers(start, segments - 1))),)
    return Problem(
        draw(chains(segments)),
        named,
        media=(RADIO,),
        source=draw(st.sampled_from([None, *names])),
        sink=draw(st.sampled_from([None, *names])),
        pins=pins,
    )


@dataclass(frozen=True)
class Candidate:
    """Hosts in order, the cuts between them, and how each crossing is sent."""

    hosts: tuple[Host, ...]
    places: tuple[int, ...]
    wires: tuple[Wire, ...]


def candidates(problem: Problem):
    """Every pipeline, be it possible or not."""
    count = len(problem.chain.segments)
    cuts = problem.chain.cuts
    for stages in range(1, min(count, len(problem.hosts)) + 1):
        for inner in itertools.combinations(range(1, count), stages - 1):
            ways = [cuts[place].wires for place in inner]
            for order in itertools.permutations(problem.hosts, stages):
                for wires in itertools.product(*ways):
                    both = (cuts[0].wires[0], *wires, cuts[-1].wires[0])
                    yield Candidate(order, (0, *inner, count), both)


def spans(candidate: Candidate):
    yield from zip(candidate.hosts, candidate.places, candidate.places[1:], strict=False)


def possible(problem: Problem, candidate: Candidate) -> bool:
    segments, cuts = problem.chain.segments, problem.chain.cuts
    for host, start, end in spans(candidate):
        own = segments[start:end]
        needed = sum(s.weight_bytes for s in own) + max(s.peak_bytes for s in own)
        needed += cuts[start].entering_bytes + cuts[end].leaving_bytes
        if needed > host.memory_bytes or math.inf in host.seconds[start:end]:
            return False
        for pin in problem.pins:
            if pin.host != host.name and start <= pin.last and end > pin.first:
                return False
    return True


def computing(problem: Problem, candidate: Candidate) -> list[float]:
    seconds = []
    for (host, start, end), got, sent in zip(
        spans(candidate), candidate.wires, candidate.wires[1:], strict=False
    ):
        wide = sum(
            problem.chain.cuts[place].wires[0].bytes
            for place, wire in ((start, got), (end, sent))
            if wire is not problem.chain.cuts[place].wires[0]
        )
        seconds.append(sum(host.seconds[start:end]) + (wide / host.conversion if host.conversion else 0.0))
    return seconds


def sendings(problem: Problem, candidate: Candidate):
    """(sender, receiver, bytes) of each transfer."""
    named = {host.name: host for host in problem.hosts}
    chain = [named.get(problem.source), *candidate.hosts, named.get(problem.sink)]
    for sender, receiver, wire in zip(chain, chain[1:], candidate.wires, strict=False):
        if sender is not None and receiver is not None and sender is not receiver:
            yield sender, receiver, wire.bytes


def bottleneck(problem: Problem, candidate: Candidate) -> float:
    busy: dict[object, float] = {}
    for sender, receiver, size in sendings(problem, candidate):
        busy["out", sender.name] = busy.get(("out", sender.name), 0.0) + size / sender.bandwidth
        busy["in", receiver.name] = busy.get(("in", receiver.name), 0.0) + size / receiver.bandwidth
        if RADIO.name in {sender.medium, receiver.medium}:
            busy["radio"] = busy.get("radio", 0.0) + size / RADIO.bandwidth
    return max([*computing(problem, candidate), *busy.values()])


def latency(problem: Problem, candidate: Candidate) -> float:
    seconds = sum(computing(problem, candidate))
    for sender, receiver, size in sendings(problem, candidate):
        radio = RADIO.bandwidth if RADIO.name in {sender.medium, receiver.medium} else math.inf
        seconds += size / min(sender.bandwidth, receiver.bandwidth, radio) + sender.latency + receiver.latency
    return seconds


def energy(problem: Problem, candidate: Candidate) -> float:
    joules = sum(sum(host.joules[start:end]) for host, start, end in spans(candidate))
    for sender, receiver, size in sendings(problem, candidate):
        joules += size * (sender.joules_per_byte + receiver.joules_per_byte)
    return joules


COSTS = {"throughput": bottleneck, "latency": latency, "energy": energy}


def costs(problem: Problem, objective: str) -> list[float]:
    """Of every possible pipeline, the lowest first."""
    cost = COSTS[objective]
    return sorted(cost(problem, each) for each in candidates(problem) if possible(problem, each))


def distinct_costs(problem: Problem, objective: str) -> list[float]:
    """The same; hosts that are alike are not told apart, nor ways to send where nothing tells them apart."""
    priced = any(host.conversion is not None for host in problem.hosts)
    found: dict[object, float] = {}
    for each in candidates(problem):
        cheapest = [
            wire is min(cut.wires, key=lambda wire: wire.bytes)
            for cut, wire in zip(
                (problem.chain.cuts[place] for place in each.places), each.wires, strict=True
            )
        ]
        if possible(problem, each) and (priced or all(cheapest[1:-1])):
            alike = tuple(_but_for_its_name(problem, host) for host in each.hosts)
            found[alike, each.places, each.wires] = COSTS[objective](problem, each)
    return sorted(found.values())


def _but_for_its_name(problem: Problem, host: Host) -> object:
    if host.name in {problem.source, problem.sink, *(pin.host for pin in problem.pins)}:
        return host
    return Host(**{**vars(host), "name": ""})
