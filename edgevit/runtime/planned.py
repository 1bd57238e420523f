"""Which task of a plan each step of its layout is: measured times beside those that were planned."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.planning.plan_file import PlanEntry, TaskEntry
from edgevit.runtime.lanes import step_key


@dataclass(frozen=True)
class PlannedStep:
    """What a step was planned to be.

    Attributes:
        task: of the plan.
        part: the sub-model that the step is; None for segments.
    """

    task: TaskEntry
    part: str | None = None

    @property
    def seconds(self) -> float | None:
        """Of computing for one item; None where the plan says it of several parts together."""
        return self.task.seconds if self.part is None or len(self.task.parts or ()) == 1 else None


def planned_steps(entry: PlanEntry) -> dict[str, PlannedStep]:
    """The steps of a plan by the keys that they have among those of their worker."""
    if entry.mode == "ensemble":
        parts = [PlannedStep(task, name) for task in entry.tasks for name in task.parts or ()]
        return {step_key(place, 0): step for place, step in enumerate(parts)}
    if entry.mode == "replicas":
        return {step_key(place, 0): PlannedStep(task) for place, task in enumerate(entry.tasks)}
    return {step_key(0, index): PlannedStep(task) for index, task in enumerate(entry.tasks)}
