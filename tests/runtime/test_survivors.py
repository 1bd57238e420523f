"""Which plan is for the devices that are there."""

from __future__ import annotations

import itertools

import pytest

from edgevit.planning.plan_file import PlanFile
from edgevit.runtime.survivors import plan_for, spare_plans

DEVICES = ("w-1", "w-2", "w-3")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_plan_needs_no_device_that_is_not_there(pipeline, count):
    for alive in itertools.combinations(DEVICES, count):
        entry = plan_for(pipeline, alive)
        if entry is not None:
            assert {task.device for task in entry.tasks} <= set(alive)


def test_with_all_devices_it_is_the_best_and_without_one_that_of_the_others(pipeline):
    assert plan_for(pipeline, DEVICES) is pipeline.plan
    assert plan_for(pipeline, ("w-1", "w-3")) == pipeline.without("w-2")
    assert plan_for(pipeline, ()) is None


def test_a_lost_device_that_does_nothing_changes_nothing(make_plan):
    single = PlanFile.read(make_plan("single"))
    (task,) = single.plan.tasks
    others = set(DEVICES) - {task.device}
    assert plan_for(single, {task.device}) is single.plan
    assert plan_for(single, others) == single.without(task.device)


def test_of_several_lost_ones_any_plan_of_the_file_that_needs_none_will_do(make_plan):
    single = PlanFile.read(make_plan("single"))
    for device in DEVICES:
        entry = plan_for(single, {device})
        assert entry is None or [task.device for task in entry.tasks] == [device]
    assert plan_for(single, {"w-1"}) is not None


def test_an_ensemble_goes_on_with_the_parts_that_are_left(pipeline):
    tasks = tuple(
        task.model_copy(update={"first": None, "last": None, "parts": (f"part-{task.device}",)})
        for task in pipeline.plan.tasks
    )
    best = pipeline.plan.model_copy(update={"mode": "ensemble", "tasks": tasks})
    ensemble = pipeline.model_copy(update={"plan": best, "losses": (), "alternatives": ()})
    left = plan_for(ensemble, {"w-2"})
    assert [task.parts for task in left.tasks] == [("part-w-2",)]
    assert plan_for(ensemble, ()) is None


def test_spares_are_all_other_plans_each_once(pipeline):
    spares = spare_plans(pipeline)
    assert pipeline.plan not in spares
    assert len(spares) >= len(DEVICES)
    assert all(pipeline.without(device) in spares for device in DEVICES)
