"""`edgevit prune`: what it writes, how it meets a latency, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgevit import measured_pruning
from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.profiling.relative import Relative
from edgevit.pruning.prune import Pruner, prune
from edgevit.quant.quantizing import quantize
from tests.conftest import LABELS
from tests.test_cli import refused

WRITTEN = ["small.prune.json", "small.pt2"]


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is a number, not measured: the square root of the arithmetic that is left."""

    def ratio(program: Program, small: Program, _: str) -> Relative:
        left = small.parameter_count / program.parameter_count
        return Relative(left**0.5, left)

    monkeypatch.setattr(measured_pruning, "relative", ratio)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    source = np.random.default_rng(0)
    for label in LABELS:
        (root / label).mkdir()
        for number in range(14):
            cv2.imwrite(
                str(root / label / f"{number}.png"), source.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            )
    return root


def command(program: object, data: Path, out: Path, *more: object) -> list[str]:
    given = ["prune", program, "--data", data, "-o", out / "small.pt2", "--images", 24, "--quiet", *more]
    return [str(word) for word in given]


def test_the_program_and_its_figures_are_written_and_nothing_else(tiny_pt2, folder, tmp_path, capsys):
    assert run(command(tiny_pt2, folder, tmp_path / "out")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN
    small, report = (
        Program.load(tmp_path / "out/small.pt2"),
        json.loads((tmp_path / "out/small.prune.json").read_text()),
    )
    assert small.parameter_count < Program.load(tiny_pt2).parameter_count
    assert report["macs"][1] <= 0.5 * report["macs"][0]
    assert report["images"] == 24
    assert report["judged"] == 18
    assert len(report["accuracy"]) == 2
    step = small.card.steps[-1]
    assert (step.name, step.measured["macs"]) == ("prune", report["macs"])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "on 18 other images" in printed.out
    assert printed.out.splitlines()[-1].startswith(f"next: edgevit compress {tmp_path / 'out/small.pt2'}")


def test_json_says_what_the_report_says(tiny_pt2, folder, tmp_path, capsys):
    assert run(command(tiny_pt2, folder, tmp_path, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "small.prune.json").read_text())


def test_a_folder_without_more_images_gives_no_accuracy(tiny_pt2, folder, tmp_path):
    assert run(command(tiny_pt2, folder, tmp_path, "--images", 42)) == 0
    report = json.loads((tmp_path / "small.prune.json").read_text())
    assert (report["accuracy"], report["judged"]) == (None, 0)


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("keep", [0.7, 0.4])
def test_the_share_is_held(tiny_program, of, keep):
    images = np.random.default_rng(0).standard_normal((32, *tiny_program.input_shape[1:]), dtype=np.float32)
    result = prune(tiny_program, images, keep=keep, of=of)
    before, after = getattr(result, of)
    assert 0 < after <= keep * before
    assert np.isfinite(result.program.run(images[:2])[0]).all()


def test_a_share_of_latency_is_held_as_measured(tiny_pt2, folder, tmp_path):
    assert run(command(tiny_pt2, folder, tmp_path, "--of", "latency", "--keep", 0.8, "--to", "onnx")) == 0
    report = json.loads((tmp_path / "small.prune.json").read_text())
    assert 0.7 < report["latency_ratio"] <= 0.8


def test_without_compensation_layers_stay_as_they_are(tiny_pt2, folder, tmp_path):
    assert run(command(tiny_pt2, folder, tmp_path, "--no-compensation")) == 0
    report = json.loads((tmp_path / "small.prune.json").read_text())
    assert report["layers"] == []
    assert report["divergence"][0] == report["divergence"][1]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--keep", 1.5), "--keep: 1.5 is no share; give a number between 0 and 1"),
        (("--keep", 0), "--keep: 0 is no share"),
        (("--keep", 0.0001), "cannot be met: with every axis at its narrowest it is"),
        (("--of", "mac"), 'did you mean "macs"'),
        (("--role", "hiden"), 'did you mean "hidden"'),
        (("--images", 4), "--images: 4 are too few to prune with; 16 at least"),
        (("--of", "latency", "--to", "coreml"), "what can be timed here are onnx and tflite"),
        (("--of", "latency", "--keep", 0.05), "allow it, or let more --role shrink"),
        (("--to", "onxn"), 'did you mean "onnx"'),
        (("--role", "heads", "--data", "nowhere"), "nowhere does not exist"),
    ],
)
def test_bad_options_are_one_sentence_and_nothing_is_written(
    tiny_pt2, folder, tmp_path, capsys, more, sentence
):
    assert sentence in refused(capsys, 2, *command(tiny_pt2, folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced_without_force(tiny_pt2, folder, tmp_path, capsys):
    (tmp_path / "small.pt2").write_text("mine")
    assert "small.pt2" in refused(capsys, 2, *command(tiny_pt2, folder, tmp_path))
    assert (tmp_path / "small.pt2").read_text() == "mine"
    assert run(command(tiny_pt2, folder, tmp_path, "--force")) == 0


def test_a_quantized_program_is_refused(tiny_program):
    images = torch.randn(16, *tiny_program.input_shape[1:]).numpy()
    quantized = quantize(tiny_program, images, method="minmax").program
    with pytest.raises(EdgevitError, match="is quantized: prune the float Program"):
        Pruner(quantized, images)
