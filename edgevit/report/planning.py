"""A plan as one self-contained HTML page: who does what and when, and what it was compared with."""

from __future__ import annotations

from edgevit.planning.plan_file import LossEntry, PlanEntry, PlanFile
from edgevit.planning.simulation import timeline
from edgevit.report import schedules
from edgevit.report.pages import rendered

_TEMPLATE = "planning.html.j2"

# More rows than these are no picture any more; the tables have as many, and the plan file has all.
_DRAWN = 24

_ITEMS = schedules.SHADES


def render(plan: PlanFile) -> str:
    """The page of a plan."""
    tasks = plan.plan.tasks[:_DRAWN]
    names = [task.device for task in tasks]
    items = len(tasks) if plan.plan.mode == "replicas" else _ITEMS
    return rendered(
        _TEMPLATE,
        plan=plan,
        best=plan.plan,
        tasks=tasks,
        more=len(plan.plan.tasks) - len(tasks),
        items=items,
        gantt=schedules.gantt(names, timeline(plan, items)),
        graph=schedules.cluster_graph(plan, tasks),
        losses=plan.losses[:_DRAWN],
        more_losses=len(plan.losses) - len(plan.losses[:_DRAWN]),
        loss_in_words=loss_in_words,
        devices_of=devices_of,
    )


def devices_of(plan: PlanEntry) -> str:
    """The devices of a plan by name, the first of many."""
    names = [task.device for task in plan.tasks]
    more = f" and {len(names) - _DRAWN} more" if len(names) > _DRAWN else ""
    return ", ".join(names[:_DRAWN]) + more


def loss_in_words(loss: LossEntry) -> str:
    """What is done without a device."""
    if loss.unchanged:
        return "nothing changes: it does nothing"
    if loss.like is not None:
        return f"as without {loss.like}, the two exchanged"
    if loss.plan is None:
        return f"no plan: {loss.reason}"
    return f"{loss.plan.mode} on {devices_of(loss.plan)}"
