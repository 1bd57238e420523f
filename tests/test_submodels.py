"""`edgevit elastic` and `edgevit compress --submodel`: what they write, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edgevit import measured_budgets, predict
from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.pruning import loop
from edgevit.recipe import Recipe
from edgevit.submodels.consistency import Reference
from edgevit.submodels.extraction import extract
from edgevit.submodels.nesting import nesting_of
from edgevit.submodels.slices import read_slices
from tests.prediction.helpers import profile_file
from tests.profiling.sshd import device, needs_sshd
from tests.pruning.patterns import LABELS, learned, patterns
from tests.submodels.helpers import logits, relative
from tests.test_cli import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    images, labels = patterns(60)
    pixels = ((images.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        (root / LABELS[label]).mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / LABELS[label] / f"{number}.png"), image[..., ::-1])
    return root


@pytest.fixture(scope="module")
def parent(folder, tmp_path_factory) -> Path:
    """An elastic Program, and its slices beside it."""
    out = tmp_path_factory.mktemp("elastic")
    start = learned().save(out / "start.pt2")
    assert run(elastic(start, folder, out / "elastic.pt2", "--widths", "0.25,0.5")) == 0
    return out / "elastic.pt2"


def elastic(program: Path, folder: Path, out: Path, *more: object) -> list[str]:
    given = ["elastic", program, "--calib", folder, "-o", out, "--images", 32, "--quiet", *more]
    return [str(word) for word in given]


def submodel(parent: Path, name: str, out: Path, *more: object) -> list[str]:
    return [str(word) for word in ("compress", parent, "--submodel", name, "-o", out, "--quiet", *more)]


def test_an_elastic_program_and_its_slices_are_written(parent):
    program = Program.load(parent)
    assert sorted(path.name for path in parent.parent.iterdir()) == [
        "elastic.pt2",
        "elastic.slices.yaml",
        "start.pt2",
    ]
    slices = read_slices(parent.with_name("elastic.slices.yaml"), program)
    assert [one.name for one in slices.slices] == ["0.25", "0.5", "1.0"]
    # Those that layers were not fitted with.
    assert slices.images == 28
    whole = slices.slices[-1]
    assert (whole.agreement, whole.parameters) == (100.0, program.parameter_count)
    assert [one.macs for one in slices.slices] == sorted(one.macs for one in slices.slices)
    assert slices.slices[0].divergence > whole.divergence
    assert all(one.accuracy is not None for one in slices.slices)
    assert program.card.steps[-1].name == "elastic"


def test_a_submodel_by_the_name_of_a_slice_and_by_its_widths(parent, tmp_path, capsys):
    assert run(submodel(parent, "0.5", tmp_path / "named.pt2", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    widths = nesting_of(Program.load(parent)).widths
    text = ",".join(str(allowed[1]) for allowed in widths.values())
    assert run(submodel(parent, text, tmp_path / "listed.pt2")) == 0
    named, listed = (Program.load(tmp_path / f"{name}.pt2") for name in ("named", "listed"))
    images, _ = patterns(6)
    expected = extract(Program.load(parent), {name: allowed[1] for name, allowed in widths.items()})
    for found in (named, listed):
        assert relative(logits(found, images), logits(expected, images)) == 0
    assert printed["parameters"] == [learned().parameter_count, named.parameter_count]


def test_a_submodel_that_is_fitted(parent, folder, tmp_path):
    assert run(submodel(parent, "0.25", tmp_path / "fitted.pt2", "--calib", folder, "--images", 48)) == 0
    fitted = Program.load(tmp_path / "fitted.pt2")
    assert [step.name for step in fitted.card.steps[-2:]] == ["submodel", "refit"]
    images, _ = patterns(96, seed=4)
    found = Reference.of(Program.load(parent), images.numpy()).consistency(fitted)
    assert found.divergence < 0.01


def test_a_name_of_ones_own(parent, tmp_path):
    data = yaml.safe_load(parent.with_name("elastic.slices.yaml").read_text())
    data["slices"][0]["name"] = "small"
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(data))
    assert run(submodel(parent, "small", tmp_path / "small.pt2", "--slices", own)) == 0
    assert Program.load(tmp_path / "small.pt2").parameter_count == data["slices"][0]["parameters"]


def test_without_other_images_those_that_were_fitted_with_are_measured_on(folder, tmp_path):
    out = tmp_path / "out"
    start = learned().save(tmp_path / "start.pt2")
    assert run([*elastic(start, folder, out / "e.pt2", "--widths", "0.5"), "--images", "60"]) == 0
    assert read_slices(out / "e.slices.yaml", Program.load(out / "e.pt2")).images == 60


def budget(parent: Path, folder: Path, out: Path, *more: object) -> list[str]:
    given = ["compress", parent, "--data", folder, "-o", out, "--images", 48, "--quiet", *more]
    return [str(word) for word in given]


def test_the_best_submodel_within_a_budget(parent, folder, tmp_path, capsys):
    slices = read_slices(parent.with_name("elastic.slices.yaml"), Program.load(parent)).slices
    out = tmp_path / "out" / "small.pt2"
    assert run(budget(parent, folder, out, "--flops-budget", slices[1].macs, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "small.budget.html",
        "small.budget.json",
        "small.pt2",
    ]
    assert json.loads((out.parent / "small.budget.json").read_text()) == printed
    by_name = {one["name"]: one for one in printed["candidates"]}
    assert count_macs(Program.load(out)) == by_name["search"]["cost"] <= slices[1].macs
    assert by_name["search"]["divergence"] <= by_name["uniform"]["divergence"]


def test_the_best_submodel_of_a_latency(folder, parent, tmp_path, capsys):
    # On a machine that is busy it may be missed: it is written all the same.
    out = tmp_path / "small.pt2"
    assert run(budget(parent, folder, out, "--latency-budget", "0.5s", "--force", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["of"], printed["budget"], printed["latency"]["format"]) == (
        "latency",
        500_000_000,
        "onnx",
    )
    assert printed["latency"]["p50_ms"] > 0
    assert Program.load(out).parameter_count == Program.load(parent).parameter_count


@needs_sshd
def test_a_latency_is_measured_where_the_device_is(folder, parent, tmp_path, tmp_path_factory, capsys):
    with device(tmp_path_factory.mktemp("pi")) as pi:
        words = budget(parent, folder, tmp_path / "x.pt2", "--latency-budget", "0.5s", "--force", "--json")
        assert run([*words, *pi.arguments]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["latency"]["device"] == pi.address
        assert printed["latency"]["p50_ms"] > 0
        assert pi.left() == []


def test_a_latency_is_predicted_where_the_device_is_a_profile(folder, parent, tmp_path, capsys):
    board, out = profile_file(tmp_path / "board.yaml"), tmp_path / "small.pt2"
    whole = 1e3 * predict(parent, device=board).ms
    words = budget(parent, folder, out, "--latency-budget", f"{0.98 * whole:.1f}us", "--device", board)
    assert run([*words, "--json"]) == 0
    latency = json.loads(capsys.readouterr().out)["latency"]
    assert (latency["predicted"], latency["device"], latency["interval_ms"]) == (True, "board", None)
    assert latency["p50_ms"] == pytest.approx(predict(out, device=board).ms)
    assert latency["whole_ms"] == pytest.approx(whole / 1e3)
    assert latency["p50_ms"] <= 1.1 * 0.98 * whole / 1e3
    assert "no interval" in latency["warning"]
    # What is said to a person.
    assert run([*words[:-1], board, "--force"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"predicted: p50 0\.\d+ ms in onnx on board, one thread", printed.out)


@pytest.mark.parametrize(
    ("threads", "more", "words"),
    [
        (4, (), "were measured on 4 threads, and a latency is of one"),
        (1, ("--python", "python3.9"), "is a device profile, nothing runs there; leave out --python"),
        (1, ("--to", "coreml"), "--to: 'coreml' is not predicted; known: onnx, tflite"),
        (1, ("--to", "tflite"), "board: nothing was measured in litert; what was is onnxruntime"),
    ],
)
def test_profiles_that_no_latency_can_be_predicted_for(
    parent, folder, tmp_path, capsys, threads, more, words
):
    board = profile_file(tmp_path / "board.yaml", threads=threads)
    asked = budget(parent, folder, tmp_path / "x.pt2", "--latency-budget", "1ms", "--device", board, *more)
    assert words in refused(capsys, 2, *asked)
    assert not (tmp_path / "x.pt2").exists()


@pytest.mark.parametrize("more", [("w8",), ("w8a8", "--placement", "full", "--force")], ids=["w8", "w8a8"])
def test_the_best_submodel_of_a_size_in_eight_bits(more, parent, folder, tmp_path, capsys):
    whole = 4 * Program.load(parent).parameter_count
    out = tmp_path / "out" / "small.pt2"
    words = budget(parent, folder, out, "--size-budget", f"{whole // 3000}kB", "--json", "--quantize", *more)
    assert run([*words, "--method", "minmax"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "small.budget.html",
        "small.budget.json",
        "small.compress.html",
        "small.compress.json",
        "small.pt2",
        "small.recipe.yaml",
    ]
    found = next(one for one in printed["candidates"] if one["name"] == "search")
    assert printed["bytes"] == found["cost"] <= whole // 3
    assert printed["precision"] == more[0]
    # What the search left float, and nothing else.
    assert not Recipe.read(out.with_name("small.recipe.yaml")).quantize.spare
    assert json.loads(out.with_name("small.compress.json").read_text())["kept_float"] == {}
    # In floats no submodel is as small.
    assert run(budget(parent, folder, tmp_path / "f.pt2", "--size-budget", f"{whole // 3000}kB")) == 2
    steps = [step.name for step in Program.load(out).card.steps]
    assert {"submodel", "refit", "quantize"} <= set(steps)


def test_a_size_that_quantizing_made_larger_is_named_and_nothing_written(
    parent, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measured_budgets, "costs_of", lambda program: (0, 20_000))
    words = budget(parent, folder, tmp_path / "out" / "x.pt2", "--size-budget", "19kB", "--quantize", "w8")
    sentence = refused(capsys, 1, *words, "--method", "minmax")
    assert "--size-budget: the submodel found takes 20,000 bytes once it is quantized, 1,000 more" in sentence
    assert not (tmp_path / "out").exists()
    assert run([*words, "--method", "minmax", "--force"]) == 0


def test_an_elastic_program_without_some_blocks(folder, tmp_path):
    start = learned().save(tmp_path / "start.pt2")
    assert run(elastic(start, folder, tmp_path / "e.pt2", "--widths", "0.5", "--blocks", "skip,linear")) == 0
    branch = next(iter(nesting_of(Program.load(tmp_path / "e.pt2")).replacements))
    assert run(submodel(tmp_path / "e.pt2", f"hidden=0.5,{branch}=skip", tmp_path / "small.pt2")) == 0
    small = Program.load(tmp_path / "small.pt2")
    assert small.card.steps[-1].measured["widths"][branch] == "skip"


def test_the_best_submodel_of_a_size(parent, folder, tmp_path):
    smallest, _, whole = read_slices(parent.with_name("elastic.slices.yaml"), Program.load(parent)).slices
    size = 4 * (smallest.parameters + whole.parameters) // 2
    assert run(budget(parent, folder, tmp_path / "small.pt2", "--size-budget", f"{size / 1e3}kB")) == 0
    assert 4 * Program.load(tmp_path / "small.pt2").parameter_count <= size


class TestMistakes:
    """Each gives one sentence and leaves nothing behind."""

    def test_a_program_that_is_not_nested(self, capsys, tmp_path):
        start = learned().save(tmp_path / "start.pt2")
        sentence = refused(capsys, 2, *submodel(start, "0.5", tmp_path / "out" / "x.pt2"))
        assert "patterns is not nested: it holds no submodels; make one that does with" in sentence
        assert not (tmp_path / "out").exists()

    def test_a_width_that_there_is_not(self, parent, capsys, tmp_path):
        sentence = refused(capsys, 2, *submodel(parent, "0.3", tmp_path / "x.pt2"))
        assert (
            "--submodel 0.3: block.fc1:hidden would have 19.2 of 64 units; it is nested at 16, 32, 64"
            in sentence
        )

    def test_slices_of_another_model(self, parent, capsys, tmp_path):
        data = yaml.safe_load(parent.with_name("elastic.slices.yaml").read_text())
        other = tmp_path / "other.yaml"
        other.write_text(yaml.safe_dump(data | {"parent": "0" * 64}))
        sentence = refused(capsys, 2, *submodel(parent, "0.5", tmp_path / "x.pt2", "--slices", other))
        assert "its slices are of another model than patterns" in sentence

    def test_slices_with_a_key_that_is_unknown(self, parent, capsys, tmp_path):
        other = tmp_path / "other.yaml"
        other.write_text(parent.with_name("elastic.slices.yaml").read_text() + "slice: 1\n")
        sentence = refused(capsys, 2, *submodel(parent, "0.5", tmp_path / "x.pt2", "--slices", other))
        assert 'slice: unknown key; did you mean "slices"' in sentence

    def test_a_submodel_and_bits_at_once(self, parent, capsys, tmp_path):
        sentence = refused(capsys, 2, *submodel(parent, "0.5", tmp_path / "x.pt2", "--quantize", "w8a8"))
        assert "--quantize with --submodel: take the submodel out first" in sentence

    def test_images_without_a_folder(self, parent, capsys, tmp_path):
        sentence = refused(capsys, 2, *submodel(parent, "0.5", tmp_path / "x.pt2", "--images", 64))
        assert "give --calib as well" in sentence

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--flops-budget", "1k"), "--flops-budget: 1,000 cannot be met: the smallest submodel of"),
            (("--size-budget", "1k"), "--size-budget: 1,000 cannot be met: the smallest submodel of"),
            (("--flops-budget", "much"), "--flops-budget much: is no amount; write 0.4G"),
            (("--size-budget", "0"), "--size-budget 0: is no amount"),
            (("--size-budget", "3MB", "--flops-budget", "1G"), "give one of them"),
            (("--latency-budget", "12"), "--latency-budget 12: is no time; write 12ms"),
            (("--latency-budget", "9ms", "--to", "coreml"), "--to: 'coreml' cannot be timed"),
            (("--size-budget", "3MB", "--to", "onnx"), "--to with --size-budget"),
            (("--size-budget", "3MB", "--device", "ssh://pi"), "--device: says where --latency-budget is"),
            (("--latency-budget", "9ms", "--python", "python"), "--python: is for a device; give --device"),
            (("--latency-budget", "9ms", "--device", "pi"), "a place to run is ssh://user@host[:port]"),
            (("--latency-budget", "9ms", "--device", "ssh://"), "--device: 'ssh://' is no place to run"),
            (("--size-budget", "3MB", "--torch-device", "cuda"), "--torch-device with --size-budget"),
            (("--flops-budget", "1G", "--quantize", "w8"), "--quantize w8 with a budget"),
            (("--size-budget", "3MB", "--quantize", "w4a8"), "--quantize w4a8 with a budget"),
            (("--size-budget", "3MB", "--quantize", "w8", "--max-drop", "1"), "--max-drop 1 with a budget"),
            (
                ("--size-budget", "3MB", "--submodel", "0.5"),
                "--submodel with --size-budget",
            ),
            (("--size-budget", "3MB", "--images", "8"), "--images: 8 are too few"),
        ],
    )
    def test_budgets(self, more, message, parent, folder, capsys, tmp_path):
        assert message in refused(capsys, 2, *budget(parent, folder, tmp_path / "out" / "x.pt2", *more))
        assert not (tmp_path / "out").exists()

    def test_a_budget_for_a_program_that_is_not_nested(self, folder, capsys, tmp_path):
        start = learned().save(tmp_path / "start.pt2")
        words = budget(start, folder, tmp_path / "x.pt2", "--size-budget", "3MB")
        assert "patterns is not nested" in refused(capsys, 2, *words)

    def test_slices_without_a_submodel(self, parent, folder, capsys, tmp_path):
        words = ("compress", parent, "--calib", folder, "--slices", "x.yaml", "-o", tmp_path / "x.pt2")
        assert "--slices without --submodel" in refused(capsys, 2, *map(str, words))

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--widths", "half"), "--widths half: give shares"),
            (("--widths", "0.5,1.5"), "--widths: 1.5 is no share"),
            (("--role", "layers"), "--role: 'layers' is unknown"),
            (("--blocks", "none"), "--blocks: 'none' is unknown; known: linear, skip"),
            (("--role", "channels"), "has no axis of role channels that may be narrower"),
            (("--role", "value", "--role", "heads"), "reads two axes; let one --role alone be elastic"),
            (("--role", "query-key"), "reads an axis, and is no layer without groups"),
            (("--images", "8"), "--images: 8 are too few to fit layers with; 16 at least"),
        ],
    )
    def test_options_of_elastic(self, more, message, folder, capsys, tmp_path):
        start = learned().save(tmp_path / "start.pt2")
        sentence = refused(capsys, 2, *elastic(start, folder, tmp_path / "out" / "e.pt2", *more))
        assert message in sentence
        assert not (tmp_path / "out").exists()

    def test_what_is_there_is_not_replaced(self, parent, folder, capsys):
        start = parent.with_name("start.pt2")
        assert "--force" in refused(capsys, 2, *elastic(start, folder, parent))
        assert "--force" in refused(capsys, 2, *submodel(parent, "0.5", parent))


def train_nested(folder: Path, out: Path, *more: object) -> list[str]:
    given = ["train-nested", "tests.pruning.patterns:TinyViT", "--weights", "random", "--input-size", 16]
    given += ["--resize", "none", "--mean", 0.5, "--std", 0.5, "--labels", folder / "labels.txt"]
    given += ["--data", folder / "images", "-o", out, "--epochs", 2, "--batch", 18, "--quiet", *more]
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def training(folder, tmp_path_factory) -> Path:
    """Labels in the order of the logits, and the images."""
    root = tmp_path_factory.mktemp("training")
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (root / "images").symlink_to(folder)
    return root


def test_a_nested_program_is_trained(training, tmp_path, capsys):
    out = tmp_path / "out" / "nested.pt2"
    assert run(train_nested(training, out, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["nested.pt2", "nested.slices.yaml"]
    program = Program.load(out)
    assert nesting_of(program).widths == {"block.fc1:hidden": (8, 16, 32, 64)}
    assert not nesting_of(program).fits
    assert [one["name"] for one in printed["slices"]] == ["0.125", "0.25", "0.5", "1.0"]
    # One of the ten of each class.
    assert printed["images"] == 6
    assert program.card.labels == LABELS
    assert run(submodel(out, "0.25", tmp_path / "small.pt2")) == 0


def test_an_interrupted_training_goes_on(training, tmp_path, monkeypatch):
    out, whole = tmp_path / "nested.pt2", tmp_path / "whole.pt2"
    original = loop.Loop._epoch

    def stop(self, epoch: int) -> float:
        if epoch == 1:
            raise EdgevitError("stopped")
        return original(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_epoch", stop)
        assert run(train_nested(training, out)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["nested.pt2.training"]
    assert run(train_nested(training, out)) == 0
    assert run(train_nested(training, whole)) == 0
    images, _ = patterns(6)
    found, expected = (logits(Program.load(path), images) for path in (out, whole))
    assert relative(found, expected) == 0
    assert not out.with_name("nested.pt2.training").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--granularity", "all"), "granularity: 'all' is unknown"),
        (("--widths", "0"), "--widths: 0 is no share"),
        (("--lr", "2"), "lr: must be above 0 and at most 1"),
        (("--images", "7"), "two at least are needed, one to learn from and one to judge by"),
        (("--role", "channels"), "has no axis of role channels that can be nested"),
    ],
)
def test_options_of_training_that_cannot_be(more, message, training, capsys, tmp_path):
    assert message in refused(capsys, 2, *train_nested(training, tmp_path / "out" / "n.pt2", *more))
    assert not (tmp_path / "out").exists()


def test_a_placement_that_is_measured_here_is_not_for_a_device(parent, folder, capsys, tmp_path):
    more = ("--latency-budget", "9ms", "--device", "ssh://pi", "--quantize", "w8a8")
    words = budget(parent, folder, tmp_path / "x.pt2", *more, "--placement", "measured")
    sentence = refused(capsys, 2, *words)
    assert "--placement measured --device ssh://pi: placements are measured on this machine" in sentence
