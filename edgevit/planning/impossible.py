"""Why there is no plan: the constraint without which there would be one, and what is lacking at the least."""

from __future__ import annotations

from dataclasses import replace

from edgevit.planning.problem import Problem
from edgevit.planning.shortest import least_sum
from edgevit.planning.tables import StepCosts


def why_impossible(problem: Problem) -> str:
    """The constraint that no pipeline meets, in a sentence that begins with its name.

    Args:
        problem: that no pipeline solves.
    """
    if _solved(problem, memory=False):
        return _memory_lacks(problem)
    alone = (pin for pin in problem.pins if _solved(_unpinned(problem, pin.host), memory=False))
    pinned = next(alone, None)
    if pinned is not None:
        segments = problem.chain.segments[pinned.first : pinned.last + 1]
        names = segments[0].name if len(segments) == 1 else f"{segments[0].name} to {segments[-1].name}"
        return (
            f"pinned: {names} may not leave {pinned.host}, and then nothing can run the whole model, each "
            "device one piece of it; pin segments that follow one another, to a device that can run them"
        )
    if problem.pins and _solved(replace(problem, pins=()), memory=False):
        return "pinned: no division meets all pins, each device having one piece of the model; take some away"
    return f"seconds: {_unrunnable(problem)}"


def _solved(problem: Problem, *, memory: bool) -> bool:
    return least_sum(StepCosts(problem, memory=memory).latency()) is not None


def _unpinned(problem: Problem, host: str) -> Problem:
    return replace(problem, pins=tuple(pin for pin in problem.pins if pin.host != host))


def _memory_lacks(problem: Problem) -> str:
    """By how many bytes at the least, and where most of them."""
    costs = StepCosts(problem, memory=False)
    route = least_sum(costs.lacking())
    if route is None:
        raise ValueError("memory is not what is lacking")
    needed = costs.needed()
    worst = max(
        route.steps,
        key=lambda step: needed[step.start, step.end] - costs.kinds[step.kind].like.memory_bytes,
    )
    host = costs.kinds[worst.kind].like
    return (
        f"memory: however the model is divided, {route.cost:,.0f} bytes are lacking at the least "
        f"({host.name} would need {needed[worst.start, worst.end]:,.0f} and has {host.memory_bytes:,.0f}); "
        "compress the model, or add a device"
    )


def _unrunnable(problem: Problem) -> str:
    for place, segment in enumerate(problem.chain.segments):
        if all(host.seconds[place] == float("inf") for host in problem.hosts):
            return f"no device can run {segment.name}; add one that can"
    return "no division gives each device a piece that it can run; add a device"
