"""Plan files: what is written is read again, and what was changed by hand is checked."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from edgevit.errors import EdgevitError
from edgevit.planning.modes import Work
from edgevit.planning.plan_file import PlanFile

from .instances import costs, problems
from .test_simulation import planned, two


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems())
def test_what_is_written_is_read_again(tmp_path, problem):
    if not costs(problem, "throughput"):
        return
    plan = planned(Work(problem))
    plan.write(tmp_path / "plan.yaml")
    assert PlanFile.read(tmp_path / "plan.yaml") == plan


def test_the_plan_without_a_device_that_is_like_another_is_that_ones_with_the_two_exchanged():
    plan = planned(Work(two(1.0, 1.0, 1.0)))
    assert {task.device for task in plan.without("h0").tasks} == {"h1", "h2"}
    assert {task.device for task in plan.without("h2").tasks} == {"h0", "h1"}


def test_verdicts():
    assert (
        planned(Work(two(1.0))).verdict == "dividing the work does not pay: h0 alone is as good as any plan"
    )
    assert planned(Work(two(1.0, 1.0))).verdict == (
        "2 devices (replicas): 2 times as many images as the best single device"
    )
    small = two(1.0, 1.0, memory_bytes=1.0)
    assert planned(Work(small)).verdict == "2 devices together run what none of them can run alone"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "mode: pipeline",
            "mode: pipline",
            'plan.mode: "pipline" is not one of the choices; did you mean "pipeline"',
        ),
        ("first: 1", "first: 2", "plan.tasks[1].last: must be at least 2, the first"),
        ("device: h1\n    format", "device: h9\n    format", "plan.tasks[1].device: is none of the devices"),
        ("seconds: 0.5", "seconds: -0.5", "must be at least 0"),
        ("version: 1", "version: 2", "version: 2 is not supported"),
        ("objective", "objektive", 'objektive: unknown key; did you mean "objective"'),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, old, new, problem):
    path = tmp_path / "plan.yaml"
    planned(Work(two(1.0, 1.0)), modes=("pipeline",)).write(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(EdgevitError) as refusal:
        PlanFile.read(path)
    assert str(refusal.value).startswith(f"{path}, line ")
    assert problem in str(refusal.value)
