"""The best plan of all modes, what it is compared with, and what is done when a device is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.errors import EdgevitError
from edgevit.planning import ensembles, impossible
from edgevit.planning.modes import MODES, PLANNERS, Mode, Plan, Task, Work
from edgevit.planning.problem import Objective, Problem
from edgevit.planning.routes import ROUNDING
from edgevit.planning.tables import kinds_of


@dataclass(frozen=True)
class Compared:
    """What a mode comes to.

    Attributes:
        mode: which.
        plan: its best; None where there is none.
        reason: why there is none.
    """

    mode: Mode
    plan: Plan | None
    reason: str | None = None


@dataclass(frozen=True)
class Loss:
    """What is done without a device.

    Attributes:
        host: that is lost.
        plan: of the others; None where there is none, or `like` says it.
        reason: why there is none.
        like: a device like it; what is done without that one, with the two exchanged.
    """

    host: str
    plan: Plan | None
    reason: str | None = None
    like: str | None = None


@dataclass(frozen=True)
class Outcome:
    """All that was planned.

    Attributes:
        objective: what was to be low.
        best: the best plan of all modes.
        compared: the best of each mode.
        alternatives: the next best plans of any mode, the best first.
        losses: for each device, the plan of the others.
    """

    objective: Objective
    best: Plan
    compared: tuple[Compared, ...]
    alternatives: tuple[Plan, ...]
    losses: tuple[Loss, ...]

    def value(self, plan: Plan) -> float:
        """What a plan comes to."""
        return plan.prediction.of(self.objective)

    @property
    def gain(self) -> float | None:
        """How many times better the best is than the best single device; None where none can run it alone."""
        single = next((each.plan for each in self.compared if each.mode == "single"), None)
        if single is None or not self.value(self.best):
            return None if single is None else 1.0
        return self.value(single) / self.value(self.best)


def make_plan(
    work: Work, objective: Objective, *, top: int = 1, modes: Sequence[Mode] = MODES, losses: bool = True
) -> Outcome:
    """Plan work in every mode, and choose the best.

    Args:
        work: what is planned.
        objective: what is to be low.
        top: how many plans, the best and its alternatives.
        modes: that may be chosen; replicas are looked at for throughput alone, they better nothing else.
        losses: whether to plan for the loss of each device.

    Raises:
        EdgevitError: naming the constraint that forbids every plan; for energy, where a device does not say
            what it takes.
    """
    found = {mode: PLANNERS[mode](work, objective, top) for mode in _compared_with(work, objective, modes)}
    compared = tuple(
        Compared(mode, plans[0]) if plans else Compared(mode, None, _reason(mode, work))
        for mode, plans in found.items()
    )
    ranked = _ranked([plan for mode, plans in found.items() for plan in plans if mode in modes], objective)
    if not ranked:
        raise EdgevitError(next(each.reason or "" for each in reversed(compared) if each.mode in modes))
    best = ranked[0]
    losses_of_best = _losses(work, objective, best, modes) if losses else ()
    return Outcome(objective, best, compared, tuple(ranked[1:top]), losses_of_best)


def _compared_with(work: Work, objective: Objective, modes: Sequence[Mode]) -> list[Mode]:
    """The modes that may be chosen and say anything about this work; and one device, for comparison."""
    says = {
        "single": True,
        "replicas": objective == "throughput",
        "pipeline": True,
        "ensemble": work.ensemble is not None,
    }
    return [mode for mode in MODES if says[mode] and (mode in modes or mode == "single")]


def _ranked(plans: Sequence[Plan], objective: Objective) -> list[Plan]:
    """The best first; of those that are as good, the one that needs less; what is the same only once."""
    ordered = sorted(plans, key=lambda plan: plan.prediction.of(objective))
    ranked: list[Plan] = []
    seen: set[tuple[Task, ...]] = set()
    while ordered:
        value = ordered[0].prediction.of(objective)
        alike = [plan for plan in ordered if plan.prediction.of(objective) <= value + ROUNDING * abs(value)]
        ordered = ordered[len(alike) :]
        for plan in sorted(alike, key=lambda plan: (MODES.index(plan.mode), len(plan.tasks))):
            if plan.tasks not in seen:
                ranked.append(plan)
            seen.add(plan.tasks)
    return ranked


def _reason(mode: Mode, work: Work) -> str:
    if mode == "ensemble" and work.ensemble is not None:
        return ensembles.why_impossible(work.ensemble)
    if mode == "pipeline":
        return impossible.why_impossible(work.problem)
    return "memory or pins: no device can run the whole model"


# --- losses -----------------------------------------------------------------------------------------------


def _losses(work: Work, objective: Objective, best: Plan, modes: Sequence[Mode]) -> tuple[Loss, ...]:
    """For each host the plan of the others; hosts that are alike are planned for once."""
    losses: dict[str, Loss] = {}
    busy = {*best.hosts}
    for kind in kinds_of(work.problem):
        first: Loss | None = None
        for host in (host.name for host in kind.hosts):
            if host not in busy and work.without(host) is not None:
                losses[host] = Loss(host, best)
            elif first is None:
                first = losses[host] = _without(work, objective, host, modes)
            elif first.plan is None:
                losses[host] = Loss(host, None, first.reason)
            else:
                losses[host] = Loss(host, None, like=first.host)
    return tuple(losses[host.name] for host in work.problem.hosts)


def _needed_for(problem: Problem, host: str) -> str:
    """What nothing can be done without."""
    if host == problem.source:
        return "has the images"
    if host == problem.sink:
        return "wants the answers"
    if any(pin.host == host for pin in problem.pins):
        return "has segments that may not leave it"
    return "is the only device"


def _without(work: Work, objective: Objective, host: str, modes: Sequence[Mode]) -> Loss:
    left = work.without(host)
    if left is None:
        return Loss(host, None, f"{host} {_needed_for(work.problem, host)}")
    try:
        return Loss(host, make_plan(left, objective, modes=modes, losses=False).best)
    except EdgevitError as error:
        return Loss(host, None, str(error))
