"""Which of the plans in a plan file is for the devices that are there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgevit.planning.plan_file import PlanEntry, PlanFile


def plan_for(plan: PlanFile, alive: Collection[str]) -> PlanEntry | None:
    """The plan to run with these devices; None where the file has none.

    It is the best plan where all of its devices are there; the one for a lost device where one is lost;
    and where several are, the fastest of all that are in the file and need none of them. Parts of an
    ensemble run without the others when nothing else is left.

    Args:
        plan: the file.
        alive: names of devices.
    """
    for entry in (plan.plan, *_for_lost(plan, alive)):
        if _devices(entry) <= set(alive):
            return entry
    rest = [entry for entry in _all(plan) if _devices(entry) <= set(alive)]
    if rest:
        return min(rest, key=lambda entry: entry.bottleneck_seconds)
    if plan.plan.mode != "ensemble":
        return None
    tasks = tuple(task for task in plan.plan.tasks if task.device in alive)
    return plan.plan.model_copy(update={"tasks": tasks}) if tasks else None


def spare_plans(plan: PlanFile) -> list[PlanEntry]:
    """Plans that may be needed when a device is lost."""
    return list(dict.fromkeys(entry for entry in _all(plan) if entry is not plan.plan))


def _for_lost(plan: PlanFile, alive: Collection[str]) -> list[PlanEntry]:
    lost = [loss.device for loss in plan.losses if loss.device not in alive]
    return _of_its_kind(plan, [plan.without(device) for device in lost])


def _all(plan: PlanFile) -> list[PlanEntry]:
    found = [plan.without(loss.device) for loss in plan.losses]
    return _of_its_kind(plan, [*found, *plan.alternatives])


def _of_its_kind(plan: PlanFile, entries: Sequence[PlanEntry | None]) -> list[PlanEntry]:
    """Ensembles for an ensemble, of whose whole there is no file; anything else for anything else."""
    ensemble = plan.plan.mode == "ensemble"
    return [entry for entry in entries if entry is not None and (entry.mode == "ensemble") == ensemble]


def _devices(entry: PlanEntry) -> set[str]:
    return {task.device for task in entry.tasks}
