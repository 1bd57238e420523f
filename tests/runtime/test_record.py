"""Runs of real workers written down, and planned again from."""

from __future__ import annotations

import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")

from edgevit.cli import run
from edgevit.files import sha256_of
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.run_file import RunFile


@pytest.mark.parametrize("mode", ["pipeline", "replicas"])
def test_a_run_is_written_down_and_planned_again(make_plan, tiny_pt2, cluster, tmp_path, capsys, mode):
    path, saved, second = make_plan(mode), tmp_path / "run.yaml", tmp_path / "second.yaml"
    words = ["run", str(path), "--local", "--noise", "30", "--no-spares", "--save", str(saved)]
    assert run(words) == 0
    assert f"--from-run {saved}" in capsys.readouterr().out
    written = RunFile.read(saved).value
    assert (written.n, written.mode, written.switches) == (30, mode, 0)
    assert written.plan_sha256 == sha256_of(path)
    assert written.model_sha256 == sha256_of(tiny_pt2)
    assert [task.planned for task in written.tasks] == [*PlanFile.read(path).plan.tasks]
    assert all(task.runs and 0 < task.p50_seconds < 10 for task in written.tasks)
    # Loopback is faster than the slowest of the networks that anyone would send tensors over.
    assert sorted(line.device for line in written.lines) == ["w-1", "w-2", "w-3"]
    assert all(line.bytes_per_second > 1e6 for line in written.lines)
    assert run(words) == 2
    assert "run.yaml exists already" in capsys.readouterr().err
    words = ["plan", str(tiny_pt2), "--devices", str(cluster), "--from-run", str(saved), "-o", str(second)]
    assert run(words) == 0
    taken = {task.planned.device: task.seconds for task in written.tasks}
    again = PlanFile.read(second)
    assert any(note.startswith("times are those of run.yaml, 30 items") for note in again.notes)
    if mode == "replicas":
        # All three ran everything: the best single one is the fastest of them.
        singles = [each for each in again.comparison if each.mode == "single"]
        assert singles[0].bottleneck_seconds == pytest.approx(min(taken.values()), rel=1e-6)


def test_an_ensemble_is_written_down_by_its_parts(ensemble, cluster, tmp_path):
    saved, second = tmp_path / "run.yaml", tmp_path / "second.yaml"
    words = ["run", str(ensemble), "--model", str(ensemble.parent / "split"), "--local", "--noise", "20"]
    assert run([*words, "--no-spares", "--save", str(saved)]) == 0
    written = RunFile.read(saved).value
    assert sorted(task.part for task in written.tasks) == ["part-1", "part-2", "part-3"]
    assert written.model_sha256 == sha256_of(ensemble.parent / "split" / "manifest.json")
    words = ["plan", str(ensemble.parent / "split"), "--devices", str(cluster), "--mode", "ensemble"]
    assert run([*words, "--from-run", str(saved), "-o", str(second)]) == 0
    again = PlanFile.read(second)
    taken = {task.part: (task.planned.device, task.seconds) for task in written.tasks}
    for task in again.plan.tasks:
        if all(taken[part][0] == task.device for part in task.parts):
            assert task.seconds == pytest.approx(sum(taken[part][1] for part in task.parts), rel=1e-6)


def test_a_run_is_saved_as_yaml_alone(make_plan, capsys):
    assert run(["run", str(make_plan("single")), "--local", "--noise", "1", "--save", "run.json"]) == 2
    assert "--save run.json: is written as YAML" in capsys.readouterr().err
