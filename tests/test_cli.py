"""The command line as a user meets it: real processes, one sentence for every mistake."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgevit.cli import _COMMANDS, run

EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]
FACTORY = ["tests.conftest:tiny_model", "--input-size", "16", "--mean", "0.5", "--std", "0.5"]
ROOT = Path(__file__).resolve().parents[1]


def edgevit(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*EDGEVIT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


def answer(capsys, *arguments: object) -> dict[str, Any]:
    """Run in this process; what it prints as JSON."""
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, status: int, *arguments: object) -> str:
    """Run in this process; the one sentence on standard error."""
    assert run([str(argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom edgevit.cli import run\nrun(['--help'])\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'cv2', 'jinja2'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    for name in _COMMANDS:
        assert name in result.stdout


# They go on until they are stopped, or write files alone: neither has a result.
WITHOUT_RESULT = ("serve", "top", "worker", "stage", "keys")


@pytest.mark.parametrize("name", WITHOUT_RESULT)
def test_commands_without_a_result_have_help(name, capsys):
    assert run([name, "--help"]) == 0
    assert f"edgevit {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in _COMMANDS if name not in WITHOUT_RESULT])
def test_every_command_has_help_and_the_function_of_its_name(name, capsys):
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"edgevit {name}" in text
    assert "--json" in text
    home = importlib.import_module("edgevit.export" if name == "export" else "edgevit")
    assert callable(getattr(home, name.replace("-", "_")))


def test_the_whole_path_by_hand(tmp_path, image_folder, capsys):
    """What says much in processes of their own; what is asked for as JSON in this one."""
    (tmp_path / "labels.txt").write_text("circle\nsquare\ncross\n")
    pt2, folder = tmp_path / "tiny.pt2", tmp_path / "out"
    captured = edgevit("capture", *FACTORY, "--labels", tmp_path / "labels.txt", "-o", pt2)
    assert captured.returncode == 0, captured.stderr
    assert "3 classes" in captured.stdout
    assert f"next: edgevit export {pt2}" in captured.stdout
    assert captured.stderr == ""
    inspected = answer(capsys, "inspect", pt2)
    assert inspected["card"]["labels"] == ["circle", "square", "cross"]
    assert inspected["input_shapes"] == {"image": ["batch", 3, 16, 16]}
    exported = edgevit("export", pt2, "--to", "onnx", "-o", folder)
    assert exported.returncode == 0, exported.stderr
    assert "-[x] logits: largest difference" in exported.stdout
    artefact = folder / "model.onnx"
    verified = answer(capsys, "verify", artefact, "--against", pt2)
    assert verified["passed"] is True
    assert set(verified["outputs"][0]) >= {"max_abs", "rel", "cosine", "top1_agreement", "passed"}
    evaluated = [answer(capsys, "evaluate", model, "--data", image_folder) for model in (pt2, artefact)]
    assert evaluated[0]["top1"] == evaluated[1]["top1"]
    assert set(evaluated[0]) >= {"top1", "top5", "n", "runtime"}
    profiled = answer(capsys, "profile", artefact, "--threads", 1, "--runs", 5, "--seconds", 0)
    assert set(profiled) >= {
        *("p50_ms", "p90_ms", "p99_ms", "mean_ms", "std_ms", "runs", "first_ms", "load_ms"),
        *("peak_memory_mb", "threads", "runtime"),
    }


def test_deploy_prints_the_report_last(tmp_path, image_folder, capsys):
    result = edgevit("deploy", *FACTORY, "--data", image_folder, "-o", tmp_path / "out", "--threads", 1)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    options = ("--data", image_folder, "-o", tmp_path / "out", "--force", "--threads", 1)
    as_json = answer(capsys, "deploy", *FACTORY, *options)
    assert as_json == json.loads((tmp_path / "out" / "report.json").read_text())


def test_a_dry_run_does_nothing(tmp_path, image_folder, capsys):
    arguments = ["deploy", *FACTORY, "--data", str(image_folder), "-o", str(tmp_path / "out"), "--dry-run"]
    assert run(arguments) == 0
    assert "nothing was done" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_devices_are_listed_and_shown(capsys):
    assert run(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"raspberry-pi-5", "pixel-8"} <= {device["name"] for device in listed}
    assert run(["devices", "show", "pi 5"]) == 0
    text = capsys.readouterr().out
    assert "Broadcom BCM2712" in text
    assert "raspberrypi.com" in text


def test_doctor_says_what_is_there(capsys):
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["core"]["torch"]
    extras = {extra["name"]: extra for extra in found["extras"]}
    for extra in extras.values():
        assert bool(extra["missing"]) == bool(extra["install"])
    assert run(["doctor"]) == 0
    assert "edgevit" in capsys.readouterr().out


class TestMistakes:
    """Each gives one sentence, the exit status of its kind, and leaves nothing behind."""

    def test_a_misspelt_command(self, capsys):
        assert 'did you mean "capture"' in refused(capsys, 2, "captur", "x")

    def test_a_misspelt_option(self, capsys):
        assert "--weigths" in refused(capsys, 2, "capture", "x", "-o", "y.pt2", "--weigths", "w")

    def test_a_missing_argument(self, capsys):
        assert "MODEL" in refused(capsys, 2, "capture", "-o", "y.pt2")

    def test_a_misspelt_model(self, capsys, tmp_path):
        pytest.importorskip("onnx")
        sentence = refused(capsys, 2, "capture", "timm:vit_tiny_patch16_24", "-o", tmp_path / "x.pt2")
        assert "vit_tiny_patch16_224" in sentence
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("option", "value", "hint"),
        [
            ("--input-size", "big", "write 224 or 224x192"),
            ("--input-size", "0", "write 224 or 224x192"),
            ("--mean", "a,b,c", "write one number, or three"),
            ("--mean", "1,2", "write one number, or three"),
            ("--resize", "-5", "write 256 (short edge), 64x64 or none"),
        ],
    )
    def test_an_option_that_cannot_be_read(self, capsys, option, value, hint):
        assert hint in refused(capsys, 2, "capture", "x", "-o", "y.pt2", option, value)

    def test_a_batch_that_cannot_be_read(self, capsys, tiny_pt2):
        assert "or dynamic" in refused(capsys, 2, "export", tiny_pt2, "-o", "out", "--batch", "many")

    def test_the_wrong_number_of_classes(self, capsys, tiny_pt2, image_folder):
        (image_folder / "cross").rename(image_folder / "star")
        (image_folder / "circle").rename(image_folder / "moon")
        (image_folder / "square").rename(image_folder / "sun")
        shutil.rmtree(image_folder / "sun")
        sentence = refused(capsys, 2, "evaluate", tiny_pt2, "--data", image_folder)
        assert "has 2 class folders, the model tells 3 classes apart" in sentence

    def test_a_folder_with_no_images(self, capsys, tiny_pt2, tmp_path):
        (tmp_path / "data").mkdir()
        assert "holds no images" in refused(capsys, 2, "evaluate", tiny_pt2, "--data", tmp_path / "data")

    def test_a_text_file_named_jpg(self, capsys, tmp_path, image_folder):
        (image_folder / "cross" / "b.jpg").write_text("hello")
        sentence = refused(
            capsys, 2, "deploy", *FACTORY, "--data", image_folder, "-o", tmp_path / "out", "--name", "tiny"
        )
        assert "b.jpg is not an image, or is damaged" in sentence
        assert not (tmp_path / "out").exists()

    def test_a_read_only_output_folder(self, capsys, tiny_pt2, image_folder):
        # A folder that not even root may write to.
        place = Path("/proc/self/out") if Path("/proc").is_dir() else Path("/System/out")
        sentence = refused(capsys, 2, "export", tiny_pt2, "-o", place)
        assert "cannot write to the output folder" in sentence
        assert "cannot write" in refused(capsys, 2, "deploy", *FACTORY, "--data", image_folder, "-o", place)
        assert "cannot write" in refused(capsys, 2, "capture", *FACTORY, "-o", place / "x.pt2")

    def test_an_output_that_is_in_the_way(self, capsys, tiny_pt2, tmp_path):
        (tmp_path / "file").write_text("mine")
        assert "is a file; a folder is needed" in refused(
            capsys, 2, "export", tiny_pt2, "-o", tmp_path / "file"
        )
        assert "is a folder; a file name is needed" in refused(capsys, 2, "capture", *FACTORY, "-o", tmp_path)

    def test_a_failed_check_has_its_own_status(self, capsys, tiny_onnx, tiny_pt2):
        arguments = ["verify", tiny_onnx, "--against", tiny_pt2, "--tolerance", "1e-30"]
        assert run([str(argument) for argument in arguments]) == 1
        printed = capsys.readouterr()
        assert "FAILED" in printed.out
        assert "does not compute what" in printed.err
        assert run([*map(str, arguments), "--no-strict"]) == 0

    def test_a_bug_is_called_one(self, capsys, monkeypatch, tiny_pt2):
        monkeypatch.setattr("edgevit.graph.inspection.count_macs", lambda _: 1 / 0)
        sentence = refused(capsys, 70, "inspect", tiny_pt2)
        assert "this is a bug in edgevit" in sentence


@pytest.mark.parametrize("seconds", [1.0, 4.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_nothing_behind(tmp_path, image_folder, seconds):
    """Interrupted while importing, exporting or measuring: one sentence, status 130, no output."""
    process = subprocess.Popen(
        [*EDGEVIT, "deploy", *FACTORY, "--data", str(image_folder), "-o", str(tmp_path / "deep" / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    time.sleep(seconds)
    # As a terminal does: to the whole group, the profiler's process included.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # While Python shuts down, when all is written, the signal itself ends the process.
    if process.returncode == 0 or (process.returncode == -signal.SIGINT and (tmp_path / "deep/out").exists()):
        pytest.skip("this machine was done before the interrupt")
    assert process.returncode == 130, errors
    assert errors == "error: interrupted; nothing was written\n"
    assert not (tmp_path / "deep").exists()


def test_a_closed_pipe_is_no_error():
    result = subprocess.run(
        f"{' '.join(repr(part) for part in EDGEVIT)} devices | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_no_command_takes_the_place_of_what_runs_them():
    import edgevit.cli

    for name in _COMMANDS:
        assert run([name, "--help"]) == 0
    assert edgevit.cli.run is run
