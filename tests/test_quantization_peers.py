"""The peers of the quantization benchmark, and how files are measured beside the float one."""

from __future__ import annotations

import doctest
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quantization_measure
from benchmarks.quantization_measure import (
    HEADER,
    WARM_UP,
    Candidate,
    Row,
    TfliteRunner,
    measure,
    open_runner,
    time_runners,
)
from benchmarks.quantization_peers import PEERS, Peer, quantize


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (24, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def floats(tiny_program, tiny_pt2, tiny_onnx, tmp_path_factory):
    pytest.importorskip("litert_torch")
    from edgevit.export.tflite import to_tflite

    tflite = tmp_path_factory.mktemp("floats") / "model.tflite"
    to_tflite(tiny_program, tflite)
    return {".pt2": tiny_pt2, ".onnx": tiny_onnx, ".tflite": tflite}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_writes_a_file_that_computes_nearly_what_the_float_file_does(name, floats, images, tmp_path):
    peer = PEERS[name]
    for library in peer.libraries:
        if importlib.util.find_spec(library.partition(".")[0]) is None:
            pytest.skip(f"{library} is not installed")
    path = tmp_path / f"peer{peer.writes}"
    peer.write(floats[peer.takes], images, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    expected = open_runner(floats[peer.writes]).run(images)
    found = open_runner(path).run(images)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def fails(source: Path, images: np.ndarray, output: Path) -> None:
    raise ValueError("no such operator\nand pages of advice")


def copies(source: Path, images: np.ndarray, output: Path) -> None:
    sys.stdout.write("progress")
    output.write_bytes(source.read_bytes())


def test_a_peer_that_fails_is_a_row_that_says_so(images, tmp_path):
    peer = Peer("Breaker, of things", ".onnx", ".onnx", (), fails)
    made = quantize(peer, {".onnx": tmp_path / "float.onnx"}, images, tmp_path)
    assert made == Candidate("Breaker, of things", None, failure="ValueError: no such operator")
    cells = Row(made).markdown("tiny").count("|")
    assert cells == HEADER.splitlines()[0].count("|")
    assert "fails: ValueError: no such operator" in Row(made).markdown("tiny")


def test_a_peer_runs_apart_and_its_cost_is_known(images, tmp_path, capfd):
    source = tmp_path / "float.onnx"
    source.write_bytes(b"float")
    made = quantize(Peer("Copy", ".onnx", ".onnx", (), copies), {".onnx": source}, images, tmp_path)
    assert made.path == tmp_path / "Copy.onnx"
    assert made.path.read_bytes() == b"float"
    assert made.cost.seconds >= 0
    assert made.cost.peak_mb > 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_the_float_file_measured_against_itself_agrees_with_itself(floats, images, suffix):
    path = floats[suffix]
    predictions = open_runner(path).run(images).argmax(axis=1)
    broken = Candidate("broken", None, failure="why")
    first, second = measure([broken, Candidate("itself", path)], path, images, predictions, runs=3)
    assert first == Row(broken)
    assert second.score.accuracy == second.score.equal == 100
    assert second.score.gained == second.score.lost == second.score.chance == 0
    assert second.score.divergence == pytest.approx(0, abs=1e-6)
    assert second.size == 1
    assert len(second.latency.samples) == len(second.float_latency.samples) == 3
    assert second.latency_ratio == second.latency.median / second.float_latency.median
    assert second.markdown("tiny").count("|") == HEADER.splitlines()[0].count("|")


def test_without_labels_only_latency_is_measured(tiny_onnx, images):
    (row,) = measure([Candidate("itself", tiny_onnx)], tiny_onnx, images[:1], None, runs=2)
    assert row.score is None
    assert row.latency_ratio > 0


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_runner_gives_the_programs_logits(floats, tiny_program, images, suffix):
    (expected,) = tiny_program.run(images)
    np.testing.assert_allclose(open_runner(floats[suffix]).run(images), expected, atol=1e-4)


def test_a_file_that_takes_channels_last_runs_the_same_images(tiny_program, images, tmp_path):
    pytest.importorskip("litert_torch")
    from edgevit.export.tflite import to_tflite

    path = tmp_path / "last.tflite"
    to_tflite(tiny_program, path, layout="nhwc")
    (expected,) = tiny_program.run(images)
    np.testing.assert_allclose(TfliteRunner(path).run(images), expected, atol=1e-4)


@dataclass
class Counter:
    """A runner that counts what it is asked."""

    loaded: int = 0
    invoked: int = 0

    def run(self, images):
        raise NotImplementedError

    def load(self, image):
        self.loaded += 1

    def invoke(self):
        self.invoked += 1


def test_every_turn_has_one_run_that_is_not_counted(images):
    runners = [Counter(), Counter()]
    timings = time_runners(runners, images[:1], runs=4)
    assert [len(timing.samples) for timing in timings] == [4, 4]
    assert [(runner.loaded, runner.invoked) for runner in runners] == [(1, 2 * (WARM_UP + 4))] * 2


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(quantization_measure).failed == 0
