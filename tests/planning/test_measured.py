"""Plans out of runs: times and lines that were measured stand in place of those that were planned by."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.files import sha256_of
from edgevit.planning.measured import Measurement, corrected_times, measurements_of, ratios_of
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.planning.problem import Chain, Cut, Host, Problem, Segment, Wire
from edgevit.planning.run_file import MeasuredLine, RunFile
from tests.planning.runs import SHA, measured, run_file, task

CLUSTER = """\
version: 1
devices:
  - {name: a, macs_per_second: 1.0e+6, memory_bytes: 1.0e+6, bytes_per_second: 1.0e+6, watts: 2}
  - {name: b, count: 2, macs_per_second: 2.0e+6, memory_bytes: 1.0e+6, bytes_per_second: 1.0e+6, watts: 2}
  - {name: c, macs_per_second: 1.0, memory_bytes: 1.0e+6, bytes_per_second: 1.0e+6, watts: 2}
"""


def problem_of(*tables: tuple[float, ...], conversion: float | None = None) -> Problem:
    count = len(tables[0])
    chain = Chain(
        tuple(Segment(f"s{i}", 1.0) for i in range(count)),
        tuple(Cut(f"c{i}", (Wire("fp32", 8.0), Wire("fp16", 4.0))) for i in range(count + 1)),
    )
    return Problem(chain, tuple(Host(f"h{i}", t, conversion=conversion) for i, t in enumerate(tables)))


times = st.floats(1e-6, 10)


@st.composite
def cases(draw):
    """A problem of one host for each stage of a division of its chain, and what each stage took."""
    count = draw(st.integers(1, 8))
    ends = sorted(draw(st.sets(st.integers(1, count - 1), max_size=3))) if count > 1 else []
    starts = [0, *ends]
    stages = [tuple(range(a, b)) for a, b in zip(starts, [*ends, count], strict=True)]
    tables = [tuple(draw(st.lists(times, min_size=count, max_size=count))) for _ in stages]
    took = [Measurement(f"h{i}", stage, draw(times)) for i, stage in enumerate(stages)]
    return problem_of(*tables), took


@given(cases())
def test_a_stage_takes_what_was_measured_and_the_rest_of_its_host_is_as_wrong(case):
    problem, took = case
    ratios = ratios_of(problem, took)
    corrected = corrected_times(problem, took, ratios)
    for each in took:
        before, after = problem.host(each.host).seconds, corrected[each.host]
        assert math.isclose(sum(after[i] for i in each.segments), each.seconds, rel_tol=1e-9)
        for segment, (old, new) in enumerate(zip(before, after, strict=True)):
            assert math.isclose(new, old * ratios[each.host], rel_tol=1e-9), segment


def test_several_tasks_of_a_host_have_a_ratio_each_and_the_rest_that_of_all():
    problem = problem_of((1.0, 1.0, 2.0))
    took = [Measurement("h0", (0,), 2.0), Measurement("h0", (1,), 4.0)]
    ratios = ratios_of(problem, took)
    assert ratios == {"h0": 3.0}
    assert corrected_times(problem, took, ratios) == {"h0": (2.0, 4.0, 6.0)}


def test_a_time_where_none_was_expected_is_divided_evenly():
    problem = problem_of((0.0, 0.0, 1.0))
    took = [Measurement("h0", (0, 1), 3.0)]
    assert corrected_times(problem, took, ratios_of(problem, took)) == {"h0": (1.5, 1.5, 1.0)}


def test_conversions_that_are_counted_apart_are_no_computing(tmp_path):
    run_file([measured(task("h0", 0, 0, sent="fp16"), 3.0)]).write(tmp_path / "run.yaml")
    found = measurements_of(RunFile.read(tmp_path / "run.yaml"), problem_of((1.0, 1.0), conversion=8.0))
    assert found == [Measurement("h0", (0,), 2.0)]


def test_a_device_that_never_ran_its_task_was_not_measured(tmp_path):
    run_file([measured(task("h0", 0, 1), 0.0, runs=0)]).write(tmp_path / "run.yaml")
    assert measurements_of(RunFile.read(tmp_path / "run.yaml"), problem_of((1.0, 1.0))) == []


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


def test_a_plan_out_of_a_run_is_by_measured_times_lines_and_energy(tiny_pt2, cluster, tmp_path, capsys):
    first = plan(tiny_pt2, devices=cluster, options=PlanOptions(mode="single", objective="latency"))
    fastest = first.plan.tasks[0]
    assert fastest.device == "b-1"
    slow = measured(fastest, 100 * fastest.seconds)
    line = MeasuredLine(device="b-1", bytes_per_second=5e5)
    run_file([slow], sha256_of(tiny_pt2), [line]).write(tmp_path / "run.yaml")
    words = ["plan", str(tiny_pt2), "--devices", str(cluster), "--from-run", str(tmp_path / "run.yaml")]
    assert run([*words, "--mode", "single", "-o", str(tmp_path / "second.yaml")]) == 0
    second = PlanFile.read(tmp_path / "second.yaml")
    # b-2 was not measured, and is as b-1 is.
    assert [each.device for each in second.plan.tasks] == ["a"]
    assert {host.name: host.bytes_per_second for host in second.devices} == {
        "a": 1e6, "b-1": 5e5, "b-2": 1e6, "c": 1e6,
    }  # fmt: skip
    assert second.plan.joules == pytest.approx(2 * second.plan.tasks[0].seconds)
    printed = capsys.readouterr().out
    assert re.search(r"b-1 +segments 0 to \d+ .* x 100 +nothing", printed)
    assert re.search(r"a +nothing .* segments 0 to \d+", printed)
    assert "b-1 x 100" in printed
    assert "not measured, taken to be like others of their entry: b-2" in printed
    assert "not measured, as the cluster file has them: a, c" in printed
    assert "lines measured: b-1 0.5 MB/s" in printed


@pytest.mark.parametrize(
    ("tasks", "sha256", "sentence"),
    [
        ([task("b-1", 0, 0)], SHA, r"run.yaml, line 6: model_sha256: the run was of another model, tiny.pt2"),
        ([task("d", 0, 0)], None, r'run.yaml, line \d+: tasks\[0\].planned.device: no device is called "d"'),
        ([task("b-1", 0, 900)], None, r"run.yaml, line \d+: tasks\[0\].planned: are no segments or parts"),
    ],
)
def test_a_run_of_something_else_is_refused_with_its_line(
    tiny_pt2, cluster, tmp_path, tasks, sha256, sentence
):
    entries = [measured(each, 1.0) for each in tasks]
    run_file(entries, sha256 or sha256_of(tiny_pt2)).write(tmp_path / "run.yaml")
    with pytest.raises(EdgevitError, match=sentence):
        plan(tiny_pt2, devices=cluster, options=PlanOptions(from_run=tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("version: 1", "version: 2", "line 1: version: 2 is not supported"),
        ("n: 10", "n: 0", "n: must be at least 1"),
        (f"plan_sha256: '{SHA}'", "plan_sha256: abc", "plan_sha256: must be a SHA-256"),
        ("runs: 10", "runs: -1", "runs: must be at least 0"),
        ("seconds: 1.0", "second: 1.0", 'second: unknown key; did you mean "seconds"'),
        ("runs: 10", "runs: 10\n  part: p", "tasks[0].part: must be one of the planned parts"),
    ],
)
def test_a_run_file_that_is_wrong_is_refused_with_its_line(tmp_path, old, new, sentence):
    path = tmp_path / "run.yaml"
    run_file([measured(task("b-1", 0, 0), 1.0)]).write(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(EdgevitError, match=re.escape(sentence)):
        RunFile.read(path)


def test_what_pipeedge_describes_has_no_runs(folder, capsys):
    assert run(["plan", "--pipeedge", str(folder), "--from-run", "run.yaml"]) == 2
    assert "--from-run is of a plan that ran" in capsys.readouterr().err
