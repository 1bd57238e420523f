"""Simpler ways to divide a chain, beside which the optimum stands: in equal pieces, and greedily."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edgevit.planning.pipelines import Prediction, predict, stages_of
from edgevit.planning.problem import Host, Problem
from edgevit.planning.tables import StepCosts


def equal_split(problem: Problem) -> Prediction | None:
    """As many segments for each host, in the order in which they are given.

    Returns:
        What that comes to; None where a host has no room for its piece, or cannot run it.
    """
    hosts = problem.hosts[: len(problem.chain.segments)]
    count = len(problem.chain.segments)
    return split_at(problem, hosts, [count * place // len(hosts) for place in range(len(hosts) + 1)])


def greedy(problem: Problem) -> Prediction | None:
    """The fastest host first, each with a share of the work by its speed, rounded to whole segments.

    Returns:
        What that comes to; None where a host has no room for its piece, or cannot run it.
    """
    hosts = sorted(problem.hosts, key=lambda host: sum(host.seconds))[: len(problem.chain.segments)]
    speeds = [1 / sum(host.seconds) for host in hosts]
    # Of the work, in what a host that is neither fast nor slow takes for each segment.
    work = np.mean([np.array(host.seconds) / sum(host.seconds) for host in hosts], axis=0)
    before = np.concatenate([[0.0], np.cumsum(work)])
    shares = np.concatenate([[0.0], np.cumsum(speeds) / sum(speeds)])
    places = [int(np.abs(before - share).argmin()) for share in shares]
    used = [place for place in range(len(hosts)) if places[place] < places[place + 1]]
    return split_at(problem, [hosts[i] for i in used], [0, *(places[i + 1] for i in used)])


def split_at(problem: Problem, hosts: Sequence[Host], places: Sequence[int]) -> Prediction | None:
    """A pipeline that is given.

    Args:
        problem: what is divided.
        hosts: of the stages, in the order of the chain.
        places: of the cuts between which they lie: one more than hosts.

    Returns:
        What it comes to; None where a host has no room for its piece, or cannot run it.
    """
    costs = StepCosts(problem)
    at = {node.place: index for index, node in reversed([*enumerate(costs.nodes)])}
    kinds = {host.name: kind for kind, each in enumerate(costs.kinds) for host in each.hosts}
    peaks = costs.throughput().peaks
    ends = [(at[start], at[end]) for start, end in itertools.pairwise(places)]
    steps = [(kinds[host.name], start, end) for host, (start, end) in zip(hosts, ends, strict=True)]
    if peaks is None or not all(np.isfinite(peaks[step]) for step in steps):
        return None
    nodes = [(costs.nodes[start], costs.nodes[end]) for start, end in ends]
    return predict(problem, stages_of(problem, hosts, nodes))
