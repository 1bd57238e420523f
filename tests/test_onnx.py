"""ONNX export: the ten models, fixed and dynamic batches, what is inside the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgevit.errors import CheckFailedError, EdgevitError
from edgevit.export import export, open_artefact, verify
from edgevit.export.metadata import CARD_KEY, METADATA_FILE, Metadata
from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.files import sha256_of
from edgevit.graph.capture import capture
from edgevit.graph.card import Card
from tests.zoo import TIMM

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", TIMM)
def test_the_ten_models_are_captured_and_exported_exactly(name, tmp_path):
    pytest.importorskip("timm")
    model, shape = TIMM[name]()
    program = capture(model, input_size=shape[1:], mean=(0.5,) * 3, std=(0.5,) * 3, name=name)
    assert program.batch is None, program.card.steps[0].measured
    (parity,) = export(program, output=tmp_path).artefacts[0].verification.outputs
    assert parity.rel <= 1e-5
    assert parity.passed
    assert parity.top1_agreement == 100.0


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
    with pytest.raises(EdgevitError, match="is not an ONNX model that ONNX Runtime can load"):
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
