"""`edgevit compress`: what it writes, how a recipe repeats it, how it goes on, and what it refuses."""

from __future__ import annotations

import functools
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import edgevit
from edgevit import compression
from edgevit.cli import compress as command_module
from edgevit.cli import run
from edgevit.compression import CompressResult, compress
from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.profiling import quantized as measuring
from edgevit.profiling import relative as relative_module
from edgevit.profiling.quantized import Candidate, MeasuredPlacement
from edgevit.profiling.relative import Relative, relative
from edgevit.profiling.turns import medians_in_turns
from edgevit.quant import quantizing, reconstruct
from edgevit.quant.floor import Floor
from edgevit.quant.insertion import is_quantized
from edgevit.quant.levels import Level
from edgevit.quant.placing import PLACEMENTS
from edgevit.quant.precision import BIT_WIDTHS
from edgevit.quant.quantizing import quantize
from edgevit.quant.widening import widened_layers
from edgevit.recipe import QuantizeRecipe, Recipe
from tests.conftest import LABELS
from tests.test_cli import ROOT, refused

pytest.importorskip("onnxruntime")

WRITTEN = ["y.compress.html", "y.compress.json", "y.pt2", "y.recipe.yaml"]
QUICK = ("--iterations", "2", "--quiet")
DEFAULTS = QuantizeRecipe()
OPTIONS = {option.name: option for option in command_module.command.params}
# No measurement: of levels and of the result.
PLACED = (*QUICK, "--placement", "layers")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result's speed is a number, not measured; what is measured takes few runs."""
    monkeypatch.setattr(compression, "relative", lambda *_: Relative(0.5, 0.25))
    for module in (measuring, relative_module):
        monkeypatch.setattr(module, "medians_in_turns", functools.partial(medians_in_turns, seconds=0))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def command(program: Path, calib: Path, out: Path, *more: object) -> list[str]:
    return ["compress", str(program), "--calib", str(calib), "-o", str(out / "y.pt2"), *map(str, more)]


def compressed(program: Path, calib: Path, out: Path, *more: object) -> Program:
    assert run(command(program, calib, out, *more)) == 0
    return Program.load(out / "y.pt2")


def tensors(program: Program) -> dict[str, torch.Tensor]:
    return {**program.exported.state_dict, **program.exported.constants}


def same(one: Program, other: Program) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def placed(levels: dict[str, Level] | None = None, ratio: float = 0.8) -> MeasuredPlacement:
    levels = levels or {"linear": Level.INPUTS}
    candidates = (
        Candidate("linear on 16 tokens", 1, "INPUTS", ratio, chosen="linear" in levels),
        Candidate("linear on one vector", 1, "INPUTS", 1.1, chosen="linear_1" in levels),
    )
    return MeasuredPlacement("onnx", 1.0, candidates, ratio, levels)


class TestResults:
    def test_four_files_are_written_and_nothing_else(self, tiny_pt2, image_folder, out, capsys):
        program = compressed(tiny_pt2, image_folder, out, "--quantize", "w8a8", *PLACED)
        assert sorted(path.name for path in out.iterdir()) == WRITTEN
        assert is_quantized(program)
        printed = capsys.readouterr()
        assert printed.err == ""
        assert "onnx: 0.50x the latency of float on one thread, 0.25x its size" in printed.out
        assert "points on 12 images" in printed.out
        *_, hint, report = printed.out.splitlines()
        assert hint.startswith(f"next: edgevit export {out / 'y.pt2'} --to onnx -o ")
        assert report == f"report: {out / 'y.compress.html'}"

    def test_measured_by_default_and_the_recipe_says_what_was_chosen(self, tiny_pt2, image_folder, out):
        options = ("--quantize", "w8a8", "--method", "minmax", "--force", "--quiet")
        program = compressed(tiny_pt2, image_folder, out, *options)
        report = json.loads((out / "y.compress.json").read_text())
        regions = [item["region"] for item in report["placement"]["candidates"]]
        assert regions == [
            "dense convolution at 4x4",
            *["linear on 16 tokens"] * 2,
            *["linear on one vector"] * 2,
        ]
        recipe = Recipe.read(out / "y.recipe.yaml").quantize
        assert recipe.layers
        assert recipe.placement is None
        again = compressed(
            tiny_pt2, image_folder, out / "again", "--recipe", out / "y.recipe.yaml", "--quiet"
        )
        assert same(program, again)
        assert json.loads((out / "again" / "y.compress.json").read_text())["placement"] is None

    @pytest.mark.parametrize("method", ["minmax", "hessian", "reconstruct"])
    def test_a_recipe_gives_the_same_integers_again(self, tiny_pt2, image_folder, out, method, monkeypatch):
        search = quantizing.SearchOptions
        monkeypatch.setattr(
            quantizing, "SearchOptions", lambda **given: search(**given, candidates=4, rounds=1, images=8)
        )
        options = ("--quantize", "w4a8", "--method", method, "--images", 8, "--seed", 3)
        first = compressed(tiny_pt2, image_folder, out, *options, *PLACED)
        again = compressed(tiny_pt2, image_folder, out / "b", "--recipe", out / "y.recipe.yaml", "--quiet")
        assert same(first, again)
        written = [(folder / "y.recipe.yaml").read_text() for folder in (out, out / "b")]
        assert written[0] == written[1]

    def test_json_is_the_report(self, tiny_pt2, image_folder, out, capsys):
        compressed(tiny_pt2, image_folder, out, "--quantize", "w8a8", *PLACED, "--json")
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((out / "y.compress.json").read_text())
        assert printed["images"] == 12
        assert printed["labelled"] is True
        assert {item["module"] for item in printed["sensitivity"]} == {"conv", "qkv", "head"}

    def test_images_without_classes_count_changed_predictions(self, tiny_pt2, image_folder, tmp_path, capsys):
        flat = tmp_path / "flat"
        flat.mkdir()
        for number, path in enumerate(sorted(image_folder.glob("*/*"))):
            shutil.copy(path, flat / f"{number}{path.suffix}")
        compressed(tiny_pt2, flat, tmp_path / "out", "--quantize", "w8a8", *PLACED)
        assert "% of classes change on 12 images" in capsys.readouterr().out

    def test_weights_alone_are_never_refused_for_their_speed(self, tiny_pt2, image_folder, out, monkeypatch):
        monkeypatch.setattr(compression, "relative", lambda *_: Relative(1.5, 0.25))
        compressed(tiny_pt2, image_folder, out, "--quantize", "w8", *QUICK)

    @pytest.mark.parametrize("precision", BIT_WIDTHS)
    def test_every_precision_is_measured_in_a_file_that_onnx_runtime_runs(
        self, tiny_pt2, image_folder, out, precision, monkeypatch
    ):
        monkeypatch.setattr(compression, "relative", relative)
        placement = () if precision == "w8" else ("--placement", "inputs")
        options = ("--quantize", precision, "--method", "minmax", *placement, "--force", "--quiet")
        compressed(tiny_pt2, image_folder, out, *options)
        report = json.loads((out / "y.compress.json").read_text())
        assert report["latency_ratio"] > 0
        assert report["size_ratio"] > 0

    def test_sixteen_bits_come_with_the_opset_that_has_them(self, tiny_pt2, image_folder, out, capsys):
        compressed(tiny_pt2, image_folder, out, "--quantize", "w8a16", *PLACED)
        assert "--opset 23" in capsys.readouterr().out.splitlines()[-2]

    def test_layers_that_fell_back_to_16_bits_are_named(
        self, tiny_pt2, image_folder, out, capsys, monkeypatch
    ):
        # As if every layer on 8 bits cost a point.
        drop = lambda floor, found: float(len(found.weights) - len(widened_layers(floor.program, found)))  # noqa: E731
        monkeypatch.setattr(Floor, "drop", drop)
        placed = ("--method", "minmax", "--placement", "layers")
        compressed(
            tiny_pt2, image_folder, out, "--quantize", "w8a8", *placed, "--max-drop", 0, "--fallback", "int16"
        )
        widened = json.loads((out / "y.compress.json").read_text())["widened"]
        assert widened
        printed = capsys.readouterr().out
        assert f"  {widened[0]} reads 16 bits: --max-drop 0" in printed
        assert "--opset 23" in printed
        assert Recipe.read(out / "y.recipe.yaml").quantize.fallback == "int16"

    def test_layers_never_fall_back_to_16_bits_in_core_ml(
        self, tiny_pt2, image_folder, out, capsys, monkeypatch
    ):
        monkeypatch.setattr(Floor, "drop", lambda _, found: float(bool(found.activations)))
        arguments = ("--quantize", "w8a8", "--method", "minmax", "--max-drop", "0", "--to", "coreml")
        compressed(tiny_pt2, image_folder, out, *arguments, "--placement", "full", "--quiet")
        report = json.loads((out / "y.compress.json").read_text())
        assert report["widened"] == []
        assert report["kept_float"]

    def test_core_ml_is_not_timed_here(self, tiny_pt2, image_folder, out, capsys):
        compressed(tiny_pt2, image_folder, out, "--quantize", "w8a8", "--to", "coreml", *QUICK)
        assert "latency" not in capsys.readouterr().out
        assert json.loads((out / "y.compress.json").read_text())["latency_ratio"] is None

    def test_nncf_is_repeated_by_its_recipe(self, tiny_pt2, image_folder, out):
        pytest.importorskip("nncf")
        first = compressed(tiny_pt2, image_folder, out, "--quantize", "w8a8", "--engine", "nncf", "--quiet")
        again = compressed(tiny_pt2, image_folder, out / "b", "--recipe", out / "y.recipe.yaml", "--quiet")
        assert same(first, again)

    def test_what_is_excluded_is_left_out_of_the_measured_placement_too(
        self, tiny_pt2, image_folder, out, monkeypatch
    ):
        monkeypatch.setattr(compression, "measure_placement", lambda *_, **__: placed())
        arguments = ("--quantize", "w8a8", "--method", "minmax", "--exclude", "head", "--quiet")
        first = compressed(tiny_pt2, image_folder, out, *arguments)
        recipe = Recipe.read(out / "y.recipe.yaml").quantize
        assert (recipe.exclude, recipe.layers) == (("head",), {"linear": "inputs"})
        again = compressed(tiny_pt2, image_folder, out / "b", "--recipe", out / "y.recipe.yaml", "--quiet")
        assert same(first, again)

    def test_what_layers_save_is_measured_with_the_placement_and_repeated_by_the_recipe(
        self, tiny_pt2, image_folder, out, monkeypatch
    ):
        monkeypatch.setattr(compression, "measure_placement", lambda *_, **__: placed(ratio=0.8))
        arguments = ("--quantize", "w8a8", "--method", "minmax", "--quiet")
        first = compressed(tiny_pt2, image_folder, out, *arguments)
        # The region's one layer: with it on integers the file takes 0.8 ms, and not 1.0.
        assert Recipe.read(out / "y.recipe.yaml").quantize.gains == {"linear": pytest.approx(0.2)}
        again = compressed(tiny_pt2, image_folder, out / "b", "--recipe", out / "y.recipe.yaml", "--quiet")
        assert same(first, again)

    def test_the_function_is_the_command(self, tiny_program, image_folder, out):
        recipe = QuantizeRecipe(method="minmax", placement="full", exclude=("head",))
        result = edgevit.compress(tiny_program, calib=image_folder, output=out / "y.pt2", recipe=recipe)
        assert isinstance(result, CompressResult)
        assert [result.page, result.report, result.path, result.recipe] == [out / name for name in WRITTEN]
        assert "linear_1" not in result.quantization.levels
        assert edgevit.quantize is quantize


class TestSpeed:
    def test_slower_than_float_is_not_written(self, tiny_pt2, image_folder, out, capsys, monkeypatch):
        monkeypatch.setattr(compression, "relative", lambda *_: Relative(1.2, 0.25))
        arguments = command(tiny_pt2, image_folder, out, "--quantize", "w8a8", *PLACED)
        sentence = refused(capsys, 1, *arguments)
        assert "takes 1.20x the time of the float one in onnx" in sentence
        assert "--force" in sentence
        assert not list(out.glob("*"))
        assert run([*arguments, "--force"]) == 0
        assert (out / "y.pt2").exists()

    def test_what_is_within_the_noise_is_written(self, tiny_pt2, image_folder, out, monkeypatch):
        monkeypatch.setattr(compression, "relative", lambda *_: Relative(1.02, 0.25))
        compressed(tiny_pt2, image_folder, out, "--quantize", "w8a8", *PLACED)

    def test_where_no_placement_pays_nothing_is_written(
        self, tiny_pt2, image_folder, out, capsys, monkeypatch
    ):
        monkeypatch.setattr(compression, "measure_placement", lambda *_, **__: placed(ratio=1.1))
        arguments = command(tiny_pt2, image_folder, out, "--quantize", "w8a8", *QUICK)
        sentence = refused(capsys, 1, *arguments)
        assert "no placement of integers is faster than float in onnx" in sentence
        assert "1.10x" in sentence
        assert not list(out.glob("*"))
        assert run([*arguments, "--force"]) == 0
        assert is_quantized(Program.load(out / "y.pt2"))


class TestInterrupted:
    """A run that ends between two blocks goes on from there."""

    @pytest.fixture
    def once(self, monkeypatch):
        """The first run is interrupted after a block; counts what is measured."""
        measured = []

        def measure(*_: object, **__: object) -> MeasuredPlacement:
            measured.append(1)
            return placed({"linear": Level.INPUTS, "linear_1": Level.INPUTS})

        monkeypatch.setattr(compression, "measure_placement", measure)
        finished = quantizing.Simulation.finished
        calls = []

        def interrupted(self):
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return finished(self)

        monkeypatch.setattr(quantizing.Simulation, "finished", interrupted)
        return measured

    def test_it_goes_on_with_the_placement_that_was_measured(
        self, once, tiny_program, image_folder, out, monkeypatch
    ):
        recipe = QuantizeRecipe(iterations=2)
        options = {"calib": image_folder, "output": out / "y.pt2", "recipe": recipe}
        with pytest.raises(KeyboardInterrupt):
            compress(tiny_program, **options)
        assert sorted(path.name for path in out.iterdir()) == ["y.partial", "y.partial.json"]
        with monkeypatch.context() as patched:
            patched.setattr(reconstruct, "learn", lambda *_: pytest.fail("learned again"))
            goes_on = compress(tiny_program, **options)
        assert len(once) == 1
        assert sorted(path.name for path in out.iterdir()) == WRITTEN
        whole = compress(tiny_program, **{**options, "output": out / "z.pt2"})
        assert same(Program.load(goes_on.path), Program.load(whole.path))
        assert goes_on.placement == whole.placement

    @pytest.mark.parametrize("change", [{"precision": "w4a8"}, {"exclude": ("conv",)}])
    def test_another_run_does_not_go_on_from_it(self, once, tiny_program, image_folder, out, change):
        options = {"calib": image_folder, "output": out / "y.pt2"}
        with pytest.raises(KeyboardInterrupt):
            compress(tiny_program, **options, recipe=QuantizeRecipe(iterations=2))
        kept = {path: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(EdgevitError, match="y.partial was left by a run with another model"):
            compress(tiny_program, **options, recipe=QuantizeRecipe(iterations=2, **change))
        assert kept == {path: path.read_bytes() for path in out.iterdir()}

    def test_a_damaged_placement_is_named(self, tiny_program, image_folder, out):
        out.mkdir()
        (out / "y.partial.json").write_text('{"run": ')
        with pytest.raises(EdgevitError, match="y.partial.json is no placement in progress; delete it"):
            compress(tiny_program, calib=image_folder, output=out / "y.pt2", recipe=QuantizeRecipe())

    def test_a_refusal_leaves_no_placement(self, tiny_program, image_folder, out, monkeypatch):
        monkeypatch.setattr(compression, "measure_placement", lambda *_, **__: placed())

        def refuse(*_: object, **__: object) -> None:
            raise EdgevitError("no")

        monkeypatch.setattr(compression, "quantize", refuse)
        with pytest.raises(EdgevitError, match="no"):
            compress(tiny_program, calib=image_folder, output=out / "y.pt2", recipe=QuantizeRecipe())
        assert not list(out.glob("*"))

    def test_ctrl_c_says_how_to_go_on(self, tmp_path):
        code = (
            "import sys\nfrom pathlib import Path\nfrom edgevit import cli, files\n"
            "files.resumable.append(Path(sys.argv[1]))\ncli._stop(2, None)"
        )
        for left, words in (
            (True, f"repeat the command to go on from {tmp_path / 'y.partial'}"),
            (False, ""),
        ):
            if left:
                (tmp_path / "y.partial").write_text("learned")
            else:
                (tmp_path / "y.partial").unlink()
            result = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "y.partial")],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert result.returncode == 130
            assert result.stderr == f"error: interrupted; {words or 'nothing was written'}\n"


class TestMistakes:
    """Each gives one sentence, the exit status of its kind, and leaves nothing behind."""

    @pytest.fixture
    def refusal(self, capsys, tiny_pt2, image_folder, out, monkeypatch):
        """Call with options; the sentence. Nothing may be measured before."""
        monkeypatch.setattr(measuring, "medians_in_turns", lambda *_: pytest.fail("measured"))

        def call(*more: object, program: Path = tiny_pt2, calib: Path = image_folder, status: int = 2) -> str:
            sentence = refused(capsys, status, *command(program, calib, out, *more))
            assert not list(out.glob("*"))
            return sentence

        return call

    def test_neither_bits_nor_a_recipe(self, refusal):
        assert "give one of --quantize BITS, --recipe FILE and --submodel NAME" in refusal()

    def test_both_bits_and_a_recipe(self, refusal):
        assert "give one of --quantize BITS, --recipe FILE and --submodel NAME" in refusal(
            "--quantize", "w8a8", "--recipe", "r.yaml"
        )

    def test_no_calibration_images(self, capsys, tiny_pt2, out):
        arguments = ["compress", tiny_pt2, "--quantize", "w8a8", "-o", out / "y.pt2"]
        assert "--calib is missing" in refused(capsys, 2, *arguments)

    def test_too_few_images(self, refusal, image_folder):
        for label in LABELS[1:]:
            shutil.rmtree(image_folder / label)
            (image_folder / label).mkdir()
        sentence = refusal("--quantize", "w8a8")
        assert "4 images are too few to learn ranges from; give at least 8" in sentence

    def test_fewer_images_asked_for_than_can_be_used(self, refusal):
        assert "7 images are too few" in refusal("--quantize", "w8a8", "--images", 7)

    def test_no_such_folder(self, refusal, tmp_path):
        assert "does not exist" in refusal("--quantize", "w8a8", calib=tmp_path / "nothing")

    @pytest.mark.parametrize(
        ("option", "value", "hint"),
        [
            ("--placement", "imputs", 'did you mean "inputs"?'),
            ("--engine", "nncff", 'did you mean "nncf"?'),
            ("--method", "reconstrct", 'did you mean "reconstruct"?'),
            ("--scheme", "symm", 'did you mean "sym"'),
            ("--granularity", "chanel", 'did you mean "channel"?'),
            ("--to", "onxx", 'did you mean "onnx"?'),
            ("--engine", "", "must be some text on one line"),
            ("--exclude", "nothing.like.it", "it fits none of the 3 layers"),
            ("--max-drop", "-1", "must be at least 0, not -1"),
            ("--max-drop", "nan", "must be a finite number"),
            ("--max-drop", "much", "'much' is not a valid float"),
            ("--images", "0", "0 is not in the range x>=1"),
            ("--seed", "-1", "-1 is not in the range x>=0"),
            ("--on-bad-image", "ignore", "ignore"),
            ("--torch-device", "tpu", "'tpu' is not one of 'cpu', 'cuda'"),
        ],
    )
    def test_an_option_that_cannot_be(self, refusal, option, value, hint):
        sentence = refusal("--quantize", "w8a8", option, value)
        assert option in sentence
        assert hint in sentence

    @pytest.mark.parametrize(("bits", "hint"), [("w8a9", '"w8a8"'), ("int8", "known: "), ("", "--quantize")])
    def test_unknown_bits(self, refusal, bits, hint):
        assert hint in refusal("--quantize", bits)

    @pytest.mark.parametrize("more", [("--quantize", "w8"), ("--quantize", "w8a8", "--to", "coreml")])
    def test_measuring_what_cannot_be(self, refusal, more):
        sentence = refusal(*more, "--placement", "measured")
        assert "what can be measured here are quantized activations in onnx or tflite" in sentence

    @pytest.mark.parametrize("more", [("--placement", "full"), ("--method", "hessian"), ("--iterations", 3)])
    def test_options_that_mean_nothing_to_nncf(self, refusal, more):
        assert "--engine nncf" in refusal("--quantize", "w8a8", "--engine", "nncf", *more)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
    def test_a_device_that_is_not_here(self, refusal):
        assert "torch sees no CUDA device here" in refusal("--quantize", "w8a8", "--torch-device", "cuda")

    @pytest.mark.parametrize(
        ("more", "hint"),
        [
            (("--to", "coreml", "--max-drop", 1), "--to coreml: Core ML has no 16-bit activations"),
            ((), "without --max-drop no layer falls back"),
            (("--max-drop", 1, "--engine", "nncf"), "--engine nncf"),
        ],
    )
    def test_a_fallback_that_cannot_be(self, refusal, more, hint):
        assert hint in refusal("--quantize", "w8a8", "--fallback", "int16", *more)

    def test_a_placement_of_weights_alone(self, refusal):
        assert "w8 leaves activations float" in refusal("--quantize", "w8", "--placement", "inputs")

    def test_every_layer_excluded(self, refusal):
        sentence = refusal("--quantize", "w8a8", "--exclude", "*")
        assert "has no layer to quantize after --exclude" in sentence

    def test_an_output_that_is_no_program(self, capsys, tiny_pt2, image_folder, tmp_path):
        arguments = ["compress", tiny_pt2, "--calib", image_folder, "--quantize", "w8a8", "-o"]
        sentence = refused(capsys, 2, *arguments, tmp_path / "y.onnx")
        assert "y.onnx must end in .pt2" in sentence

    @pytest.mark.parametrize("name", WRITTEN)
    def test_an_output_that_is_there(self, capsys, tiny_pt2, image_folder, out, name):
        out.mkdir()
        (out / name).write_text("mine")
        arguments = command(tiny_pt2, image_folder, out, "--quantize", "w8a8", *PLACED)
        assert f"{out / name} exists already" in refused(capsys, 2, *arguments)
        assert [path.read_text() for path in out.iterdir()] == ["mine"]
        assert run([*arguments, "--force"]) == 0

    def test_a_program_that_is_quantized_already(self, refusal, tiny_program, image_folder, tmp_path):
        first = tmp_path / "first.pt2"
        images = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
        quantize(tiny_program, images, method="minmax").program.save(first)
        sentence = refusal("--quantize", "w8a8", program=first)
        assert "is quantized already; start from the float program" in sentence

    def test_a_program_that_is_none(self, refusal, tmp_path):
        (tmp_path / "x.pt2").write_text("hello")
        assert "x.pt2" in refusal("--quantize", "w8a8", program=tmp_path / "x.pt2")
        assert "does not exist" in refusal("--quantize", "w8a8", program=tmp_path / "z.pt2")

    def test_weights_that_are_not_numbers(self, refusal, tiny_pt2, tmp_path):
        program = Program.load(tiny_pt2)
        program.exported.state_dict["qkv.weight"].data[0, 0] = float("nan")
        path = program.save(tmp_path / "nan.pt2")
        assert "the weight of qkv holds NaN" in refusal("--quantize", "w8a8", program=path)

    def test_a_bad_image(self, refusal, image_folder):
        (image_folder / "cross" / "b.png").write_text("hello")
        assert "b.png" in refusal("--quantize", "w8a8")

    def test_images_of_one_class_are_warned_about_in_one_line(self, tiny_pt2, tmp_path, capsys):
        for label in LABELS:
            (tmp_path / "one" / label).mkdir(parents=True)
        for number in range(8):
            image = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / "one" / "square" / f"{number}.png"), image)
        compressed(tiny_pt2, tmp_path / "one", tmp_path / "out", "--quantize", "w8a8", *PLACED)
        errors = capsys.readouterr().err
        assert errors.startswith("warning: --calib: all 8 images are of class 1; ")
        assert errors.count("\n") == 1


class TestRecipes:
    """Recipes that people change."""

    @pytest.fixture
    def refusal(self, capsys, tiny_pt2, image_folder, out, tmp_path):
        def call(text: str, *more: object) -> str:
            (tmp_path / "r.yaml").write_text(text)
            arguments = ("--recipe", tmp_path / "r.yaml", *more)
            sentence = refused(capsys, 2, *command(tiny_pt2, image_folder, out, *arguments))
            assert not list(out.glob("*"))
            return sentence

        return call

    def test_an_option_beside_a_recipe(self, refusal):
        text = "version: 1\nquantize: {precision: w8a8}\n"
        sentence = refusal(text, "--max-drop", 1)
        assert "--max-drop with --recipe: write it into" in sentence
        assert "--seed with --recipe" in refusal(text, "--seed", 0)

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            (
                "version: 1\nquantize:\n  presicion: w8a8\n",
                "line 3: quantize.presicion: unknown key; did you",
            ),
            ("version: 2\nquantize: {}\n", "line 1: version: 2 is not supported"),
            ("quantize: {}\n", "version: missing"),
            ("version: 1\n", "quantize: missing"),
            (
                "version: 1\nquantize:\n  max_drop: -1\n",
                "line 3: quantize.max_drop: must be at least 0, not -1",
            ),
            ("version: 1\nquantize:\n  layers: {linear: int}\n", "is not one of the choices"),
            (
                "version: 1\nquantize:\n  placement: full\n  layers: {linear: inputs}\n",
                "either `placement` or `layers`",
            ),
            ("version: 1\nquantize:\n  gains: {linear: 0.1}\n", "`gains` beside `layers` only"),
            ("version: 1\nquantize:\n  layers: {liner: inputs}\n", 'did you mean "linear'),
            (
                "version: 1\nquantize:\n  layers: {linear: inputs}\n  exclude: [qkv]\n",
                "layers: linear: `exclude` keeps it float",
            ),
            (
                "version: 1\nquantize:\n  precision: w8\n  layers: {linear: inputs}\n",
                "layers: linear: with these bits activations stay float; only weights can be integers",
            ),
            ("version: 1\nquantize:\n  engine: nncf\n  layers: {linear: inputs}\n", "--engine nncf chooses"),
            ("", "is empty; a recipe starts with `version: 1`"),
            ("hello", "is not a recipe"),
        ],
    )
    def test_a_recipe_that_cannot_be(self, refusal, text, hint):
        assert hint in refusal(text)

    def test_no_such_recipe(self, capsys, tiny_pt2, image_folder, out):
        arguments = command(tiny_pt2, image_folder, out, "--recipe", out / "no.yaml")
        assert "no.yaml does not exist" in refused(capsys, 2, *arguments)

    def test_layers_by_hand(self, tiny_pt2, image_folder, out, tmp_path):
        quantize = {"method": "minmax", "layers": {"linear": "inputs", "conv2d": "weights"}}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"version": 1, "quantize": quantize}))
        program = compressed(tiny_pt2, image_folder, out, "--recipe", tmp_path / "r.yaml", "--quiet")
        integers = [name for name, value in tensors(program).items() if value.dtype == torch.int8]
        assert len(integers) == 2


class TestHelp:
    """What --help says about defaults is true."""

    @pytest.mark.parametrize("name", ["engine", "method", "images", "to", "iterations", "seed"])
    def test_the_defaults_are_the_recipes(self, name):
        assert OPTIONS[name].help.endswith(f"[default: {getattr(DEFAULTS, name)}]")

    def test_the_recipes_options_are_the_commands(self):
        assert set(QuantizeRecipe.model_fields) - {"layers", "gains"} <= set(OPTIONS)

    def test_the_recipes_defaults_are_those_of_quantize(self):
        theirs = {name: p.default for name, p in inspect.signature(quantize).parameters.items()}
        # `images` are a number here and the images there.
        for name in set(QuantizeRecipe.model_fields) & set(theirs) - {"images"}:
            assert getattr(DEFAULTS, name) == theirs[name], name

    def test_every_choice_is_named(self):
        def named(option: str) -> str:
            return OPTIONS[option].help

        assert all(bits in named("precision") for bits in BIT_WIDTHS)
        assert all(placement in named("placement") for placement in (*PLACEMENTS, "measured"))
        for option, choices in (
            ("engine", quantizing.Engine),
            ("method", quantizing.Method),
            ("fallback", quantizing.Fallback),
        ):
            assert all(choice in named(option) for choice in choices.__args__)
        for option, choices in (("granularity", quantizing.Granularity), ("scheme", quantizing.SchemeChoice)):
            assert all(choice in named(option) for choice in choices.__args__)
