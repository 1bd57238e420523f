"""`edgevit split-classes` as a user meets it: what it prints, how it goes on, and what it refuses."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevit import measured_splitting
from edgevit.cli import run
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.profiling import relative
from edgevit.profiling.turns import medians_in_turns
from edgevit.pruning.split import MANIFEST, read_split
from tests.conftest import tiny_model
from tests.pruning.patterns import LABELS, learned, patterns
from tests.test_cli import EDGEVIT, ROOT, refused

WRITTEN = [
    "control.pt2",
    "fusion.safetensors",
    "manifest.json",
    "part-1.pt2",
    "part-2.pt2",
    "report.html",
    "report.json",
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are of few runs."""
    monkeypatch.setattr(relative, "medians_in_turns", functools.partial(medians_in_turns, seconds=0))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned().save(tmp_path_factory.mktemp("program") / "patterns.pt2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images of each pattern, in folders by class."""
    root = tmp_path_factory.mktemp("data")
    images, labels = patterns(96, seed=2)
    for place, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        folder = root / LABELS[label]
        folder.mkdir(exist_ok=True)
        pixels = ((image.transpose(1, 2, 0)[:, :, ::-1] + 1) * 127.5).round().astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{place}.png"), pixels)
    return root


def command(program: Path, data: Path, out: Path, *more: object) -> list[str]:
    options = ("--parts", 2, "--grouping", "random")
    return ["split-classes", str(program), "--data", str(data), "-o", str(out), *map(str, more or options)]


class TestResults:
    def test_the_folder_is_written_and_what_it_is_worth_is_printed(self, program, data, tmp_path, capsys):
        out = tmp_path / "out"
        assert run(command(program, data, out)) == 0
        assert sorted(path.name for path in out.iterdir()) == WRITTEN
        assert list(tmp_path.iterdir()) == [out]
        printed = capsys.readouterr()
        assert printed.err == ""
        first, *parts, top, control, tick, hint = printed.out.splitlines()
        assert first == "2 of patterns, 6 classes at random"
        assert len(parts) == 2
        for line, part in zip(parts, read_split(out).manifest.parts, strict=True):
            assert line.startswith(f"  {part.name}  ")
            assert f"{part.bytes_sent} bytes sent" in line
            assert "% without it" in line
            assert ", ".join(LABELS[label] for label in part.classes) in line
        assert "on 18 images held out of 96" in top
        assert control.startswith("control, one model in 8 bits: ")
        assert tick == f"-[x] {out}"
        assert hint == f"next: edgevit export {out / 'part-1.pt2'} --to onnx -o {out / 'part-1-onnx'}"

    def test_json_is_the_manifest_and_latencies(self, program, data, tmp_path, capsys):
        pytest.importorskip("onnxruntime")
        training = ("--epochs", 1, "--flip", "--crop-padding", 1)
        assert run([*command(program, data, tmp_path / "out", "--parts", 1, *training), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((tmp_path / "out/report.json").read_text())
        assert printed["manifest"] == json.loads((tmp_path / "out" / MANIFEST).read_text())
        assert set(printed["latency"]) == {"part-1", "control"}
        assert printed["whole_ms"] > 0
        steps = {step.name: step for step in Program.load(tmp_path / "out/part-1.pt2").card.steps}
        assert (steps["train"].options["flip"], steps["train"].options["crop_padding"]) == (True, 1)

    def test_without_a_runtime_nothing_is_timed(self, program, data, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(measured_splitting, "timed_here", lambda _: None)
        assert run(command(program, data, tmp_path / "out")) == 0
        assert "the time" not in capsys.readouterr().out
        assert json.loads((tmp_path / "out/report.json").read_text())["latency"] is None

    def test_devices_are_placed_on_and_the_published_way_stands_beside_it(
        self, program, data, tmp_path, capsys
    ):
        path = tmp_path / "devices.yaml"
        entries = [f"  - {{name: pi-{n}, macs_per_second: {n}.0e+9, memory_bytes: 40000}}" for n in (1, 2)]
        path.write_text("\n".join(["version: 1", "devices:", *entries]))
        options = ("--devices", path, "--grouping", "random")
        assert run(command(program, data, tmp_path / "out", *options)) == 0
        printed = capsys.readouterr().out
        assert "\n  part-1 on pi-" in printed
        assert "slowest device " in printed
        assert "largest first, as published: " in printed

    def test_a_part_can_be_exported_and_gives_the_same_features(self, program, data, tmp_path):
        pytest.importorskip("onnxruntime")
        from edgevit.export import export

        out = tmp_path / "out"
        assert run(command(program, data, out)) == 0
        exported = export(Program.load(out / "part-1.pt2"), output=tmp_path / "onnx")
        found = exported.artefacts[0].verification.outputs
        assert [output.name for output in found] == ["logits", "features"]
        assert all(output.passed for output in found)


class TestGoingOn:
    def interrupted(self, arguments: list[str], number: signal.Signals, out: Path, *, when: str) -> str:
        """Run in a process of its own, and stop it as soon as such a file is there."""
        process = subprocess.Popen(
            [*EDGEVIT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        partial = out.with_name(f"{out.name}.partial")
        deadline = time.monotonic() + 240
        while not list(partial.glob(when)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {128 + number, -number}
        assert not out.exists()
        return errors

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_was_stopped_goes_on_and_gives_the_same_bytes(self, program, data, tmp_path, workers):
        options = ("--parts", 2, "--grouping", "random", "--epochs", 12, "--workers", workers)
        arguments = command(program, data, tmp_path / "out", *options)
        if workers == 1:
            errors = self.interrupted(arguments, signal.SIGINT, tmp_path / "out", when="*.part.pt2")
            hint = f"repeat the command to go on from {tmp_path / 'out.partial'}"
            assert errors == f"error: interrupted; {hint}\n"
        # Not even the time to say goodbye.
        self.interrupted(arguments, signal.SIGKILL, tmp_path / "out", when="*.training")
        assert run(arguments) == 0
        whole = command(program, data, tmp_path / "whole", *options[:-1], 1)
        assert run(whole) == 0
        # Reports hold times.
        for name in (name for name in WRITTEN if not name.startswith("report")):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        assert not (tmp_path / "out.partial").exists()


class TestMistakes:
    def refuse(self, capsys, program: Path, data: Path, out: Path, *options: object) -> str:
        sentence = refused(capsys, 2, *command(program, data, out, *options))
        assert not out.exists()
        assert not out.with_name(f"{out.name}.partial").exists()
        return sentence

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (("--seed", 1), "give either --parts N or --devices FILE"),
            (("--parts", 2, "--devices", "devices.yaml"), "devices.yaml does not exist"),
            (("--parts", 0), "--parts: 0 sub-models; one at least is needed"),
            (("--parts", 7), "--parts: 7 sub-models of patterns, which tells 6 classes apart"),
            (("--parts", 2, "--keep", 2), "--keep: 2 is no share"),
            (("--parts", 2, "--grouping", "randm"), 'did you mean "random"'),
            (("--parts", 2, "--workers", 0), "--workers: 0 processes; one at least is needed"),
            (("--parts", 2, "--parallel", "rays"), 'did you mean "ray"'),
            (("--parts", 2, "--images", 6), "has no image among the 6 that are used"),
        ],
    )
    def test_an_option_that_cannot_be(self, capsys, program, data, tmp_path, options, sentence):
        assert sentence in self.refuse(capsys, program, data, tmp_path / "out", *options)

    def test_parts_and_devices(self, capsys, program, data, tmp_path):
        path = tmp_path / "devices.yaml"
        path.write_text("version: 1\ndevices: [{name: a, macs_per_second: 1.0, memory_bytes: 1}]")
        options = ("--parts", 2, "--devices", path)
        sentence = self.refuse(capsys, program, data, tmp_path / "out", *options)
        assert "give either --parts N or --devices FILE" in sentence

    def test_a_class_without_images(self, capsys, program, data, tmp_path):
        shutil.copytree(data, tmp_path / "data")
        shutil.rmtree(tmp_path / "data" / "disc")
        sentence = self.refuse(capsys, program, tmp_path / "data", tmp_path / "out", "--parts", 2)
        assert "--data: class 3 (disc) has no image among the 80 that are used" in sentence

    def test_a_folder_of_other_classes(self, capsys, data, tmp_path):
        program = capture(tiny_model(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="tiny")
        path = program.save(tmp_path / "tiny.pt2")
        sentence = self.refuse(capsys, path, data, tmp_path / "out", "--parts", 2)
        assert "has 6 class folders, the model tells 3 classes apart" in sentence

    def test_images_without_classes(self, capsys, program, data, tmp_path):
        (tmp_path / "flat").mkdir()
        for path in data.glob("rows/*"):
            shutil.copy(path, tmp_path / "flat")
        sentence = self.refuse(capsys, program, tmp_path / "flat", tmp_path / "out", "--parts", 2)
        assert "has no labels" in sentence

    def test_an_image_that_is_none(self, capsys, program, data, tmp_path):
        shutil.copytree(data, tmp_path / "data")
        (tmp_path / "data" / "disc" / "a.png").write_text("hello")
        sentence = self.refuse(capsys, program, tmp_path / "data", tmp_path / "out", "--parts", 2)
        assert "a.png is not an image" in sentence

    def test_a_budget_that_cannot_be_met(self, capsys, program, data, tmp_path):
        path = tmp_path / "devices.yaml"
        path.write_text("version: 1\ndevices: [{name: pi, macs_per_second: 1.0e+9, memory_bytes: 900}]")
        sentence = self.refuse(capsys, program, data, tmp_path / "out", "--devices", path)
        assert (
            "--devices: pi: memory_bytes: part-1 may have 900 bytes; pruned as far as it can be" in sentence
        )
        assert "too many" in sentence

    def test_an_output_that_is_there(self, capsys, program, data, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "part-2.pt2").write_text("mine")
        sentence = refused(capsys, 2, *command(program, data, tmp_path / "out"))
        assert "part-2.pt2 exists already; choose another output or pass --force" in sentence
        assert (tmp_path / "out" / "part-2.pt2").read_text() == "mine"


def test_ray_is_named_where_it_is_missing(capsys, program, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["edgevit.extras"].EXTRAS, "cluster", ("ray_that_is_not_there",))
    sentence = refused(
        capsys, 3, *command(program, data, tmp_path / "out", "--parts", 2, "--parallel", "ray")
    )
    assert 'run `pip install "edgevit[cluster]"`' in sentence
