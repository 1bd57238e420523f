"""`edgevit plan emit`: how it stands beside `edgevit plan`, and what it refuses whatever the target."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")

from edgevit.cli import run


def test_it_is_a_word_of_plan_and_plan_is_as_before(make_plan, tiny_pt2, cluster, tmp_path, capsys):
    words = ["plan", "emit", str(make_plan("single")), "--for", "triton", "-o", str(tmp_path / "out")]
    assert run(words) == 0
    assert "2 files for triton" in capsys.readouterr().out
    assert run(words) == 2
    assert f"{tmp_path / 'out'} is not empty; choose another folder" in capsys.readouterr().err
    assert run([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["tiny/1/model.onnx", "tiny/config.pbtxt"]
    assert run(["plan", "emit", "-h"]) == 0
    assert "Usage: edgevit plan emit [OPTIONS] PLAN" in capsys.readouterr().out
    assert run(["plan", str(tiny_pt2), "--devices", str(cluster), "--mode", "single"]) == 0
    assert "bottleneck_s:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--for", "kserv"], '--for kserv: did you mean "kserve"'),
        (["--for", "helm"], "--for helm: known: compose, kserve, systemd, triton"),
        (["--for", "kserve"], "--for kserve needs --image: a container image that has edgevit"),
        (
            ["--for", "kserve", "--image", "i"],
            "--for kserve needs --storage: where the folder `models` will be",
        ),
        (["--for", "compose"], "--for compose needs --image"),
        (["--for", "systemd"], "--for systemd needs --address"),
        (["--for", "triton", "--image", "i"], "--image says nothing to triton; it is for kserve and compose"),
        (["--for", "compose", "--image", "i", "--storage", "s3://x"], "--storage says nothing to compose"),
        (["--for", "compose", "--image", "a b"], "--image 'a b': use letters"),
        (["--for", "systemd", "--address", "w-1"], "--address w-1: write NAME=HOST:PORT"),
        (
            ["--for", "systemd", "--address", "a=b:1", "--program", "edgevit"],
            "--program edgevit: systemd needs",
        ),
        (["--for", "triton", "--name", "a/b"], "--name 'a/b': use letters, digits"),
        (["--for", "compose", "--image", "i", "--http", "0"], "--http 0: a port is 1 to 65535"),
        (["--for", "triton", "--model", "none.pt2"], "none.pt2"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(make_plan, tmp_path, capsys, words, sentence):
    assert run(["plan", "emit", str(make_plan("pipeline")), *words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_none_is_refused(tmp_path, capsys):
    assert run(["plan", "emit", "nowhere.yaml", "--for", "triton", "-o", str(tmp_path / "out")]) == 2
    assert "plan: nowhere.yaml does not exist" in capsys.readouterr().err


def test_a_device_that_is_called_as_whoever_runs_plans_is_refused(make_plan, tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text(make_plan("single").read_text().replace("w-3", "coordinator"))
    words = ["plan", "emit", str(path), "--for", "compose", "--image", "i", "-o", str(tmp_path / "out")]
    assert run(words) == 2
    assert "a device is called coordinator, as whoever runs plans is; rename it" in capsys.readouterr().err
