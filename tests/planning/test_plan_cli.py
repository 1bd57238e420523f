"""`edgevit plan` and `edgevit simulate`: what they print and write, and what they refuse."""

from __future__ import annotations

import json

import pytest

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.files import sha256_of
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.pruning import split
from tests.planning.runs import measured, run_file

CLUSTER = """\
version: 1
devices:
  - {name: a, macs_per_second: 1.0e+6, memory_bytes: 1.0e+6, bytes_per_second: 1.0e+6}
  - {name: b, count: 2, macs_per_second: 2.0e+6, memory_bytes: 1.0e+6, bytes_per_second: 1.0e+6}
roles: {input: a, answer: a}
"""
SHA = "0" * 64


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def manifest(tmp_path, tiny_program):
    """A split into two parts, as its manifest tells it; the file of the first is there, for its input."""
    place = tmp_path / "split"
    place.mkdir()
    tiny_program.save(place / "part-1.pt2")
    parts = tuple(
        split.Part(
            file=f"part-{i}.pt2", sha256=SHA, name=f"part-{i}", classes=(i,), parameters=10, bytes=40_000,
            macs=30_000, bytes_sent=64, accuracy=80.0, accuracy_without=50.0,
        )
        for i in (1, 2)
    )  # fmt: skip
    split.Manifest(
        edgevit="0", model="m", classes=2, labels=None,
        options=split.Options(keep=0.5, grouping="random", epochs=0, seed=0, images=10, held_out=5),
        grouping="random", compared=None,
        whole=split.Whole(parameters=20, bytes=80_000, macs=100_000, accuracy=90.0), parts=parts,
        fusion=split.FusionEntry(file="f", sha256=SHA, parameters=100, accuracy=85.0),
        control=split.Control(file="c", sha256=SHA, bytes=20_000, macs=30_000, accuracy=84.0),
        placement=None, greedy=None,
    ).write(place / "manifest.json")  # fmt: skip
    return place / "manifest.json"


def out(capsys) -> str:
    return capsys.readouterr().out


# --- PipeEdge -----------------------------------------------------------------------------------------------


def test_the_bottleneck_of_pipeedges_files_is_printed(folder, capsys):
    assert run(["plan", "--pipeedge", str(folder)]) == 0
    printed = out(capsys)
    assert "bottleneck_s: 2.0\n" in printed
    assert "proven: no plan of this mode is better" in printed
    assert "without a: " in printed
    assert run(["plan", "--pipeedge", str(folder), "--json"]) == 0
    assert json.loads(out(capsys))["bottleneck_s"] == 2.0


def test_a_plan_is_written_with_its_page_and_simulated(folder, tmp_path, capsys):
    path = tmp_path / "out" / "plan.yaml"
    assert run(["plan", "--pipeedge", str(folder), "-o", str(path)]) == 0
    assert PlanFile.read(path).plan.bottleneck_seconds == 2.0
    assert "<h1>" in path.with_suffix(".html").read_text()
    assert f"next: edgevit simulate {path}" in out(capsys)
    assert run(["simulate", str(path), "--requests", "50", "--lose", "b", "--lose-at", "5"]) == 0
    assert "50 of 50 answered" in out(capsys)
    assert run(["simulate", str(path), "--requests", "50", "--rate", "0.1", "--json"]) == 0
    result = json.loads(out(capsys))
    assert (result["answered"], sorted(result["latency_seconds"])) == (50, ["p50", "p90", "p99"])


def test_an_existing_plan_is_only_replaced_on_request(folder, tmp_path, capsys):
    (tmp_path / "plan.html").write_text("mine")
    arguments = ["plan", "--pipeedge", str(folder), "-o", str(tmp_path / "plan.yaml")]
    assert run(arguments) == 2
    assert "plan.html exists already" in capsys.readouterr().err
    assert not (tmp_path / "plan.yaml").exists()
    assert run([*arguments, "--force"]) == 0


# --- splits and Programs ------------------------------------------------------------------------------------


def test_parts_of_a_split_are_placed_and_compared_with_the_whole(manifest, cluster, tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    assert (
        run(["plan", str(manifest), "--devices", str(cluster), "--objective", "latency", "-o", str(path)])
        == 0
    )
    printed = out(capsys)
    written = PlanFile.read(path)
    assert written.plan.mode == "ensemble"
    assert sorted(part for task in written.plan.tasks for part in task.parts) == ["part-1", "part-2"]
    assert "one device with the control in eight bits 84.00 %" in printed
    assert [each.mode for each in written.comparison] == ["single", "pipeline", "ensemble"]
    assert written.fusion_seconds == pytest.approx(100 / 1e6)


def test_a_folder_of_a_split_is_as_good_as_its_manifest(manifest, cluster):
    options = PlanOptions(objective="latency")
    assert plan(manifest.parent, devices=cluster, options=options) == plan(
        manifest, devices=cluster, options=options
    )


def test_a_split_is_planned_again_from_what_its_parts_took(manifest, cluster, tmp_path, capsys):
    options = PlanOptions(objective="latency", mode="ensemble")
    before = plan(manifest, devices=cluster, options=options)
    tasks = [
        measured(each, 10 * each.seconds / len(each.parts), part=part)
        for each in before.plan.tasks
        for part in each.parts
    ]
    path = tmp_path / "run.yaml"
    run_file(tasks, sha256_of(manifest)).write(path)
    words = ["plan", str(manifest.parent), "--devices", str(cluster), "--mode", "ensemble"]
    assert (
        run([*words, "--objective", "latency", "--from-run", str(path), "-o", str(tmp_path / "p.yaml")]) == 0
    )
    printed = out(capsys)
    after = PlanFile.read(tmp_path / "p.yaml")
    for each in before.plan.tasks:
        assert f"{each.device} x 10" in printed
    # Those that ran the parts are ten times slower with the whole as well.
    whole = {each.mode: each.bottleneck_seconds for each in after.comparison}
    assert whole["single"] > 1.5 * {e.mode: e.bottleneck_seconds for e in before.comparison}["single"]


def test_parts_of_a_split_are_not_pinned(manifest, cluster):
    cluster.write_text(CLUSTER.replace("answer: a}", "answer: a, pinned: [{device: a, first: 0, last: 0}]}"))
    with pytest.raises(
        EdgevitError, match=r"cluster.yaml, line 5: roles.pinned: parts of a split are in no order"
    ):
        plan(manifest, devices=cluster)


def test_parts_that_fit_nowhere_are_refused_with_what_is_lacking(manifest, cluster):
    options = PlanOptions(max_memory=39_000, mode="ensemble")
    with pytest.raises(
        EdgevitError, match=r"^memory: however the 2 sub-models are placed, 2,000 bytes are lack"
    ):
        plan(manifest, devices=cluster, options=options)


def test_this_machine_is_measured(manifest):
    planned = plan(manifest, local=3, options=PlanOptions(objective="latency"))
    assert [device.name for device in planned.devices] == ["local-1", "local-2", "local-3"]
    assert any("PyTorch with one thread" in note for note in planned.notes)
    assert planned.plan.latency_seconds > 0


def test_a_program_is_planned_over_its_cuts(tiny_program, cluster, tmp_path, capsys):
    pytest.importorskip("edgevit.graph.cutting")
    path = tiny_program.save(tmp_path / "tiny.pt2")
    assert run(["plan", str(path), "--devices", str(cluster), "--mode", "pipeline", "--wire", "fp16"]) == 0
    printed = out(capsys)
    assert "(pipeline)" in printed or "does not pay" in printed
    assert "times of a are its multiply-accumulates over macs_per_second, an estimate" in printed


def test_pins_that_no_plan_meets_are_refused_with_their_line(tiny_program, cluster, tmp_path):
    pytest.importorskip("edgevit.graph.cutting")
    path = tiny_program.save(tmp_path / "tiny.pt2")
    pins = ", ".join(f"{{device: {name}, first: {i}, last: {i}}}" for i, name in enumerate(("a", "b-1", "a")))
    cluster.write_text(CLUSTER.replace("answer: a}", f"answer: a,\n  pinned: [{pins}]}}"))
    with pytest.raises(EdgevitError, match=r"cluster.yaml, line 6: roles.pinned: segment 0 may not leave a"):
        plan(path, devices=cluster)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give a Program (.pt2), a split's manifest.json, or --pipeedge DIR"),
        (["x.pt2"], "give either --devices CLUSTER.yaml or --local N"),
        (["x.pt2", "--devices", "c.yaml", "--local", "2"], "give either --devices CLUSTER.yaml or --local N"),
        (
            ["x.onnx", "--local", "2"],
            "x.onnx is neither a Program (.pt2) nor a split's folder or manifest.json",
        ),
        (["x.pt2", "--pipeedge", "DIR"], "--pipeedge says model and devices"),
        (["--pipeedge", "nowhere"], "nowhere is no folder"),
        (
            ["--pipeedge", "DIR", "-o", "plan.txt"],
            "--output plan.txt: is written as YAML; end its name in .yaml",
        ),
        (["--pipeedge", "DIR", "--mode", "pipelin"], "mode: 'pipelin'; did you mean \"pipeline\""),
        (["--pipeedge", "DIR", "--wire", "fp8"], "wire: 'fp8'; known: fp16, fp32, int8"),
        (["--pipeedge", "DIR", "--max-memory", "lots"], "--max-memory lots: is no amount"),
        (["--pipeedge", "DIR", "--max-memory", "1M"], "memory: however the model is divided"),
        (["--pipeedge", "DIR", "--objective", "energy"], "how much energy it takes is not known"),
        (["--pipeedge", "DIR", "--batch", "4"], "no times of batches of 4"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(folder, arguments, sentence, capsys):
    assert run(["plan", *(str(folder) if word == "DIR" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml"], "plan: nowhere.yaml does not exist"),
        (["PLAN", "--rate", "0"], "rate: 0; must be above 0"),
        (["PLAN", "--lose", "z"], "says nothing of a lost 'z'"),
        (["PLAN", "--requests", "0"], "requests"),
    ],
)
def test_simulations_that_make_no_sense_are_refused(folder, tmp_path, arguments, sentence, capsys):
    path = tmp_path / "plan.yaml"
    assert run(["plan", "--pipeedge", str(folder), "-o", str(path)]) == 0
    capsys.readouterr()
    assert run(["simulate", *(str(path) if word == "PLAN" else word for word in arguments)]) == 2
    assert sentence in capsys.readouterr().err
