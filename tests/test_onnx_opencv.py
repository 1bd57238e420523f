"""Whether OpenCV's dnn runs a file: found out by running it, in a process of its own."""

from __future__ import annotations

import signal

import cv2
import pytest

from edgevit.export import export
from edgevit.export.onnx import opencv_probe, to_onnx
from edgevit.export.onnx.opencv import OpenCvVerdict, opencv_verdict
from edgevit.graph.capture import capture
from tests.test_onnx import Block

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("options", [{}, {"batch": "dynamic"}, {"precision": "fp16"}])
def test_a_hybrid_runs_in_opencv(tiny_program, tmp_path, options):
    to_onnx(tiny_program, tmp_path / "a.onnx", **options)
    verdict = opencv_verdict(tmp_path / "a.onnx")
    assert verdict.refusal is None
    assert verdict.version == cv2.__version__
    assert verdict.difference < (5e-3 if "precision" in options else 1e-5)
    assert str(verdict).startswith(f"OpenCV {cv2.__version__}: runs, largest difference ")


def test_operators_of_onnx_runtime_are_named_in_the_refusal(tmp_path):
    program = capture(Block(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="block")
    to_onnx(program, tmp_path / "a.onnx", optimize="ort")
    verdict = opencv_verdict(tmp_path / "a.onnx")
    assert verdict.difference is None
    assert "refuses BiasGelu: " in str(verdict) or "refuses SkipLayerNormalization: " in str(verdict)
    assert "\n" not in str(verdict)


def test_the_verdict_is_among_what_was_exported(tiny_program, tmp_path):
    (artefact,) = export(tiny_program, output=tmp_path, check_opencv=True).artefacts
    assert artefact.info.options["opencv"].startswith(f"OpenCV {cv2.__version__}: runs")


def test_a_crash_of_opencv_is_a_verdict(tiny_onnx, tmp_path, monkeypatch):
    crashing = tmp_path / "crash.py"
    crashing.write_text(f"import os; print('9.9', flush=True); os.kill(os.getpid(), {signal.SIGSEGV:d})")
    monkeypatch.setattr(opencv_probe, "__file__", str(crashing))
    assert str(opencv_verdict(tiny_onnx)) == "OpenCV 9.9: crashes (signal 11)"


def test_another_result_is_a_refusal(tiny_onnx, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import sys, numpy; print('9.9'); numpy.savez(sys.argv[3], numpy.ones((1, 3), numpy.float32))"
    )
    monkeypatch.setattr(opencv_probe, "__file__", str(wrong))
    assert str(opencv_verdict(tiny_onnx)).startswith(
        "OpenCV 9.9: computes something else: largest difference"
    )


def test_a_file_that_opencv_cannot_finish_is_a_refusal(tiny_onnx, tmp_path, monkeypatch):
    endless = tmp_path / "endless.py"
    endless.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(opencv_probe, "__file__", str(endless))
    monkeypatch.setattr("edgevit.export.onnx.opencv._PATIENCE", 0.1)
    assert str(opencv_verdict(tiny_onnx)) == "OpenCV: does not finish one image in 0.1 s"


def test_the_line_says_how_far_the_results_are_apart():
    line = str(OpenCvVerdict("5.0.0", 1.23e-6, None))
    assert line == "OpenCV 5.0.0: runs, largest difference 1.2e-06 of the largest value"
