"""ONNX export: the ten models, fixed and dynamic batches, what is inside the file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.cli import run
from edgevit.errors import CheckFailedError, EdgevitError
from edgevit.export import export, open_artefact, verify
from edgevit.export.metadata import CARD_KEY, METADATA_FILE, Metadata
from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.export.onnx.contest import is_clearly_faster
from edgevit.export.timing import Timing
from edgevit.export.verify import TOLERANCES
from edgevit.extras import version_of
from edgevit.files import sha256_of
from edgevit.graph.capture import capture
from edgevit.graph.card import Card
from edgevit.graph.program import Program
from tests.rewrites.helpers import Function

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
def test_any_number_of_images_runs_whatever_the_batch(tiny_program, tmp_path, batch):
    info = to_onnx(tiny_program, tmp_path / "a.onnx", batch=batch)
    artefact = OnnxArtefact.open(tmp_path / "a.onnx")
    first = "batch" if batch == "dynamic" else batch
    assert artefact.batch == (None if batch == "dynamic" else batch)
    assert info.inputs[0].shape == (first, 3, 16, 16)
    assert info.outputs[0].shape == (first, 3)
    images = np.random.default_rng(0).standard_normal((7, 3, 16, 16), dtype=np.float32)
    assert np.allclose(artefact.run(images)[0], tiny_program.run(images)[0], atol=1e-6)


def test_a_program_of_one_batch_cannot_become_dynamic(tiny_program, tmp_path):
    with pytest.raises(
        EdgevitError, match="--batch dynamic: tiny was captured for a batch of 2; pass --batch 2"
    ):
        to_onnx(tiny_program.with_batch(2), tmp_path / "a.onnx", batch="dynamic")


def test_the_file_describes_itself(tiny_onnx, tiny_program):
    model = onnx.load(tiny_onnx)
    embedded = {entry.key: entry.value for entry in model.metadata_props}
    card = Card.from_json(embedded[CARD_KEY], "x")
    assert card.preprocessing == tiny_program.card.preprocessing
    assert card.labels == tiny_program.card.labels
    assert card.steps[:1] == tiny_program.card.steps
    assert "fold_batch_norm" in [step.name for step in card.steps]
    assert model.producer_name == "edgevit"
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert b"conftest.py" not in tiny_onnx.read_bytes()


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


NOISE = np.random.default_rng(0).standard_normal((7, 3, 16, 16), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_opset_23_has_attention_as_one_operator_and_computes_the_same(tiny_program, tmp_path, batch):
    info = to_onnx(tiny_program, tmp_path / "a.onnx", opset=23, batch=batch)
    assert info.options == {"opset": 23, "batch": batch}
    assert operators(tmp_path / "a.onnx")["Attention"] == 1
    assert [entry.version for entry in onnx.load(tmp_path / "a.onnx").opset_import] == [23]
    actual = OnnxArtefact.open(tmp_path / "a.onnx").run(NOISE)[0]
    assert np.allclose(actual, tiny_program.run(NOISE)[0], atol=1e-6)


def test_the_fastest_opset_is_told_with_both_medians(tiny_program, tmp_path):
    options = to_onnx(tiny_program, tmp_path / "a.onnx", opset="fastest").options
    assert options["opset"] in (20, 23)
    assert options["opset_20_median_ms"] > 0
    assert options["opset_23_median_ms"] > 0
    assert options["timed"].startswith("30 runs of each in turns, onnxruntime ")
    assert operators(tmp_path / "a.onnx")["Attention"] == (options["opset"] == 23)


@pytest.mark.parametrize(
    ("portable", "fused", "faster"),
    [
        ([10.0, 10.1, 9.9, 10.0], [8.0, 8.1, 7.9, 8.0], True),
        ([10.0, 10.1, 9.9, 10.0], [9.9, 9.8, 9.9, 9.8], False),  # less than 3 %
        ([10.0, 14.0, 6.0, 10.0], [9.0, 13.0, 5.0, 9.0], False),  # as noise goes
        ([8.0, 8.1, 7.9, 8.0], [10.0, 10.1, 9.9, 10.0], False),
    ],
)
def test_only_what_is_clearly_faster_beats_the_portable_opset(portable, fused, faster):
    assert is_clearly_faster(Timing(tuple(fused)), Timing(tuple(portable))) is faster


class Block(torch.nn.Module):
    """A transformer's MLP with its skip connection: what ONNX Runtime fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 4, 4)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(16) for _ in range(2))
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(image).flatten(2).transpose(1, 2)
        hidden = torch.nn.functional.gelu(self.up(self.norms[0](tokens)))
        return self.head(self.norms[1](tokens + self.down(hidden)).mean(1))


@pytest.fixture(scope="module")
def block() -> Program:
    return capture(Block(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="block")


@pytest.mark.parametrize("batch", [1, "dynamic"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_operators_are_fused_for_onnx_runtime(block, tmp_path, batch, precision):
    path = tmp_path / "a.onnx"
    info = to_onnx(block, path, optimize="ort", batch=batch, precision=precision)
    assert info.options["optimize"] == "ort"
    assert info.options["runs_in"] == "ONNX Runtime only"
    assert info.options["fused"] == {"BiasGelu": 1, "SkipLayerNormalization": 1}
    assert operators(path).items() >= info.options["fused"].items()
    artefact = OnnxArtefact.open(path)
    assert artefact.card.name == "block"
    assert artefact.batch == (None if batch == "dynamic" else 1)
    expected = block.run(NOISE)[0]
    difference = np.abs(artefact.run(NOISE)[0] - expected).max() / np.abs(expected).max()
    assert difference <= TOLERANCES[precision]


def test_where_nothing_can_be_fused_any_runtime_runs_it(tiny_program, tmp_path):
    info = to_onnx(tiny_program, tmp_path / "a.onnx", optimize="ort")
    assert info.options == {"opset": 20, "optimize": "ort", "fused": {}, "batch": 1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"opset": 19}, "--opset: 19 is not possible for ONNX; known: 20, 23, fastest"),
        ({"opset": "best"}, "--opset: 'best' is not possible for ONNX; known: 20, 23, fastest"),
        ({"optimize": "all"}, "--optimize: 'all' is not possible for ONNX; known: ort"),
        ({"precision": "int8"}, "--precision: 'int8' is not possible for ONNX; known: fp32, fp16"),
        ({"optimize": "ort", "opset": 23}, "--optimize ort with --opset 23: .* does not know opset 23's"),
        ({"optimize": "ort", "opset": "fastest"}, "--optimize ort with --opset fastest: .*leave out --opset"),
    ],
)
def test_options_that_are_not_possible_are_refused(tiny_program, tmp_path, options, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        to_onnx(tiny_program, tmp_path / "a.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_composite_operators_are_taken_apart(tmp_path):
    def moved(image: torch.Tensor) -> torch.Tensor:
        return image.swapaxes(1, 2).movedim(2, 3).split([2, 14], 1)[0].flatten(1)[:, :3]

    program = capture(Function(moved), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="moved")
    to_onnx(program, tmp_path / "a.onnx")
    assert np.array_equal(OnnxArtefact.open(tmp_path / "a.onnx").run(NOISE)[0], program.run(NOISE)[0])


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    def inverse(image: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(image.tanh() * 0.9).mean((2, 3))

    program = capture(Function(inverse), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="odd")
    with pytest.raises(EdgevitError, match="odd cannot be written as ONNX: .*erf_inv") as caught:
        to_onnx(program, tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


def test_metadata_beside_it_says_the_same(tiny_onnx, tiny_program):
    metadata = Metadata.read(tiny_onnx.with_name(METADATA_FILE))
    assert metadata.card == tiny_program.card
    info = metadata.artefacts["model.onnx"]
    assert info.sha256 == sha256_of(tiny_onnx)
    assert info.bytes == tiny_onnx.stat().st_size
    assert info.options == {"opset": 20, "batch": 1}


def test_an_altered_or_truncated_file_is_refused(tiny_onnx, tmp_path):
    for name in ("model.onnx", METADATA_FILE):
        (tmp_path / name).write_bytes((tiny_onnx.parent / name).read_bytes())
    path = tmp_path / "model.onnx"
    whole = path.read_bytes()
    open_artefact(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(EdgevitError, match=r"its sha256 differs \(altered or truncated\)"):
        open_artefact(path)
    (tmp_path / METADATA_FILE).unlink()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdgevitError, match=r"is not a sound ONNX file \(damaged or truncated\)"):
        open_artefact(path)


def test_metadata_with_unknown_keys_is_refused(tiny_onnx, tmp_path):
    content = json.loads(tiny_onnx.with_name(METADATA_FILE).read_text())
    content["colour"] = 1
    (tmp_path / METADATA_FILE).write_text(json.dumps(content))
    (tmp_path / "model.onnx").write_bytes(tiny_onnx.read_bytes())
    with pytest.raises(EdgevitError, match=r"metadata\.json is not valid: colour: Extra inputs"):
        open_artefact(tmp_path / "model.onnx")


def test_what_is_no_artefact_is_refused(tmp_path, tiny_onnx):
    with pytest.raises(EdgevitError, match="does not exist"):
        open_artefact(tmp_path / "a.onnx")
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(EdgevitError, match=r"is none of .*\*\.onnx"):
        open_artefact(tmp_path / "a.bin")
    with pytest.raises(EdgevitError, match=r"did you mean .*model\.onnx"):
        open_artefact(tiny_onnx.parent)


def test_a_file_of_another_maker_runs_but_cannot_be_evaluated_without_a_card(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    model.doc_string = ""
    onnx.save(model, tmp_path / "foreign.onnx")
    artefact = open_artefact(tmp_path / "foreign.onnx")
    assert artefact.run(np.zeros((2, 3, 16, 16), np.float32))[0].shape == (2, 3)
    with pytest.raises(EdgevitError, match="has no edgevit card"):
        _ = artefact.card


def test_nothing_is_overwritten_without_force(tiny_program, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"mine")
    (tmp_path / "other.txt").write_text("also mine")
    with pytest.raises(EdgevitError, match=r"model\.onnx exists already; .* --force"):
        export(tiny_program, output=tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
    export(tiny_program, output=tmp_path, force=True)
    assert verify(tmp_path / "model.onnx", against=tiny_program).passed
    assert (tmp_path / "other.txt").read_text() == "also mine"


@pytest.mark.parametrize(
    ("formats", "sentence"),
    [
        (("onxx",), 'did you mean "onnx"'),
        (("onnx", "onnx"), "name each format once"),
        ((), "name each format once"),
    ],
)
def test_unknown_formats_are_refused(tiny_program, tmp_path, formats, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        export(tiny_program, to=formats, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The real one: tests put the damaged one in its place.
TO_ONNX = to_onnx


def damaged_exporter(program, path: Path, **options: object):
    """A converter that loses a little of every weight."""
    info = TO_ONNX(program, path, **options)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    model.doc_string = ""
    del model.metadata_props[-1]
    onnx.save(model, path)
    return info.model_copy(update={"sha256": sha256_of(path)})


def test_a_wrong_artefact_fails_verification_and_under_strict_is_not_written(
    tiny_program, tmp_path, monkeypatch
):
    monkeypatch.setattr("edgevit.export.onnx.to_onnx", damaged_exporter)
    result = export(tiny_program, output=tmp_path / "kept")
    assert not result.passed
    assert (tmp_path / "kept" / "model.onnx").exists()
    with pytest.raises(CheckFailedError, match="does not compute what the program does: logits"):
        export(tiny_program, output=tmp_path / "refused", strict=True)
    assert not (tmp_path / "refused").exists()


def test_the_command_line_has_the_same_choices(tiny_pt2, tmp_path, capsys):
    options = ["--opset", "23", "--precision", "fp16", "--check-opencv", "--json", "--quiet"]
    assert run(["export", str(tiny_pt2), "-o", str(tmp_path / "out"), *options]) == 0
    info = json.loads(capsys.readouterr().out)["artefacts"][0]["info"]
    assert info["precision"] == "fp16"
    assert info["options"]["opset"] == 23
    assert info["options"]["opencv"].startswith("OpenCV ")


def test_a_choice_that_is_not_onnx_s_is_refused_before_any_work(tiny_program, tmp_path):
    with pytest.raises(EdgevitError, match="--opset means nothing to tflite; it is for onnx"):
        export(tiny_program, to=["tflite"], opset=23, output=tmp_path / "out")


def test_versions_are_found_under_the_name_that_is_imported():
    assert version_of("torch") == torch.__version__
    assert version_of("cv2")
    assert version_of("no_such_library") is None
