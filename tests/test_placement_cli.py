"""`edgevit inspect` of an artefact, the line that `edgevit export` prints, and what is said of bad input."""

from __future__ import annotations

import json

import pytest

from edgevit.cli import run
from tests.test_cli import refused

pytest.importorskip("onnx")


def inspected(capsys, *arguments):
    assert run(["inspect", *map(str, arguments)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_an_artefact_shows_its_operators_and_every_backend(capsys, tiny_onnx):
    text = inspected(capsys, tiny_onnx)
    found = json.loads(inspected(capsys, tiny_onnx, "--json"))
    total = sum(kind["count"] for kind in found["operators"])
    assert f"ops: {total} in {len(found['operators'])} kinds" in text
    for kind in found["operators"]:
        assert f"{kind['count']:>15}  {kind['kind']}\n" in text
    for backend in found["backends"]:
        name = f"{backend['runtime']} via {backend['via']} ({backend['unit']})"
        assert f"{name}: takes {backend['taken']} of {total}" in text
        assert backend["basis"] in {"datasheet", "measurement", "estimate"}
        for fallback in backend["fallbacks"]:
            assert f"{fallback['count']:>15}  {fallback['kind']}: {fallback['reason']}" in text
    assert {backend["via"] for backend in found["backends"]} >= {"CPUExecutionProvider", "DNN_TARGET_CPU"}


def test_a_device_shows_its_own_backends_alone(capsys, tiny_onnx):
    text = inspected(capsys, tiny_onnx, "--device", "jetson-orin-nano")
    assert "where they run on NVIDIA Jetson Orin Nano Super Developer Kit" in text
    assert "TensorrtExecutionProvider (gpu)" in text
    assert "QNNExecutionProvider" not in text


def test_a_program_is_shown_as_before(capsys, tiny_pt2):
    assert "multiply-accumulates an image" in inspected(capsys, tiny_pt2)


def test_an_export_says_in_a_line_where_its_operators_run(capsys, tiny_pt2, tmp_path):
    assert run(["export", str(tiny_pt2), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    path = tmp_path / "out" / "model.onnx"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ops: ")]
    assert line.endswith(f"; details: edgevit inspect {path}")
    assert "kinds, 4 transposes; CPUExecutionProvider takes " in line


def test_an_export_as_json_holds_the_placement_of_the_file_where_it_is(capsys, tiny_pt2, tmp_path):
    assert run(["export", str(tiny_pt2), "-o", str(tmp_path / "out"), "--json", "--no-verify"]) == 0
    (artefact,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert artefact["placement"]["artefact"] == artefact["path"] == str(tmp_path / "out" / "model.onnx")
    assert artefact["placement"]["backends"]


class TestMistakes:
    def test_a_device_for_a_program(self, capsys, tiny_pt2):
        sentence = refused(capsys, 2, "inspect", tiny_pt2, "--device", "pixel-8")
        assert f"--device: {tiny_pt2} is no artefact" in sentence

    def test_a_misspelt_device(self, capsys, tiny_onnx):
        assert 'did you mean "pixel-8"' in refused(capsys, 2, "inspect", tiny_onnx, "--device", "pixl-8")

    def test_a_device_that_does_not_run_the_format(self, capsys, tiny_onnx):
        sentence = refused(capsys, 2, "inspect", tiny_onnx, "--device", "coral")
        assert sentence == "error: --device: Coral Dev Board runs tflite, not onnx\n"

    @pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlpackage", ".pt2"])
    def test_a_file_that_is_not_there(self, capsys, tmp_path, suffix):
        path = tmp_path / f"model{suffix}"
        assert f"{path} does not exist" in refused(capsys, 2, "inspect", path)

    def test_a_damaged_artefact(self, capsys, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x08\x07 not a model")
        assert "is not a sound ONNX file" in refused(capsys, 2, "inspect", path)
