"""Accuracy: counted right, the same in torch and in the artefact's runtime."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgevit import evaluate
from edgevit.errors import EdgevitError
from edgevit.evaluation import in_top, softmax

scores = arrays(np.float32, (6, 8), elements=st.integers(-3, 3).map(float))
truths = arrays(np.int64, 6, elements=st.integers(0, 7))


@given(scores, truths)
def test_top_one_is_the_first_best_class(values, truth):
    assert np.array_equal(in_top(values, truth, 1), values.argmax(axis=1) == truth)


@given(scores, truths, st.integers(1, 7))
def test_more_places_never_lose_a_hit(values, truth, count):
    assert np.all(in_top(values, truth, count) <= in_top(values, truth, count + 1))
    assert in_top(values, truth, 8).all()


@given(scores)
def test_exactly_as_many_classes_as_places_are_in_the_top(values):
    """Whatever the ties: over all classes, `count` of them are among the best `count`."""
    rows = len(values)
    hits = sum(in_top(values, np.full(rows, label), 5).astype(int) for label in range(values.shape[1]))
    assert np.array_equal(hits, np.full(rows, 5))


@given(scores)
def test_softmax_is_a_distribution(values):
    chances = softmax(values * 100)
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert (chances >= 0).all()


def test_the_artefact_has_the_programs_accuracy(tiny_pt2, tiny_onnx, image_folder):
    program, artefact = (evaluate(model, data=image_folder) for model in (tiny_pt2, tiny_onnx))
    assert program.n == artefact.n == 12
    assert program.predictions == artefact.predictions
    assert (program.top1, program.top5) == (artefact.top1, artefact.top5)
    assert program.runtime == "torch"
    assert artefact.runtime.startswith("onnxruntime ")
    assert len(program.mistakes) == round(12 * (1 - program.top1 / 100))
    confidences = [mistake.confidence for mistake in program.mistakes]
    assert confidences == sorted(confidences, reverse=True)


def test_bad_images_are_skipped_and_listed(tiny_pt2, image_folder):
    (image_folder / "square" / "text.jpg").write_text("no picture")
    with pytest.raises(EdgevitError, match=r"text\.jpg is not an image.* pass --on-bad-image skip"):
        evaluate(tiny_pt2, data=image_folder)
    result = evaluate(tiny_pt2, data=image_folder, on_bad_image="skip")
    assert result.n == 12
    assert len(result.skipped) == 1


def test_a_folder_of_only_bad_images_is_an_error(tiny_pt2, tmp_path):
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "a.jpg").write_text("no picture")
    with pytest.raises(EdgevitError, match="none of the 1 images"):
        evaluate(tiny_pt2, data=tmp_path, on_bad_image="skip")


def test_images_without_labels_cannot_be_evaluated(tiny_pt2, image_folder):
    with pytest.raises(EdgevitError, match="has no labels"):
        evaluate(tiny_pt2, data=image_folder / "circle")


@pytest.fixture(scope="module")
def vit_tiny(shared):
    """The published weights."""
    from edgevit import capture
    from edgevit.graph.torchvision_shim import make_torchvision_importable

    make_torchvision_importable()
    pytest.importorskip("timm")
    return capture(
        "timm:vit_tiny_patch16_224",
        weights=shared / "weights" / "vit_tiny_patch16_224.safetensors",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        labels=shared / "data" / "imagenet-labels.txt",
    )


@pytest.fixture(scope="module")
def few(shared, tmp_path_factory):
    """The first 60 of the validation images."""
    data, folder = shared / "data" / "imagenet-val", tmp_path_factory.mktemp("few")
    rows = (data / "labels.csv").read_text().splitlines()[:61]
    (folder / "labels.csv").write_text("\n".join(rows))
    for row in rows[1:]:
        shutil.copy(data / row.partition(",")[0], folder)
    return folder


@pytest.fixture(scope="module")
def vit_tiny_onnx(vit_tiny, few, tmp_path_factory):
    from edgevit.export import export

    return export(vit_tiny, output=tmp_path_factory.mktemp("vit-tiny") / "out", data=few).artefacts[0]


def test_vit_tiny_in_onnx_runtime_sees_what_it_sees_in_torch(vit_tiny, vit_tiny_onnx, few):
    assert vit_tiny_onnx.verification.outputs[0].rel <= 1e-5
    in_torch, in_onnx = (evaluate(model, data=few) for model in (vit_tiny, vit_tiny_onnx.path))
    assert in_torch.n == 60
    assert in_torch.top1 > 75
    assert in_torch.predictions == in_onnx.predictions


@pytest.mark.slow
def test_vit_tiny_keeps_its_accuracy_on_imagenet(shared, vit_tiny, vit_tiny_onnx):
    """In torch and in ONNX Runtime, on 650 validation images."""
    data = shared / "data" / "imagenet-val"
    in_torch, in_onnx = evaluate(vit_tiny, data=data), evaluate(vit_tiny_onnx.path, data=data)
    assert in_torch.n == 650
    # The reference, 83.08 %, is of a plain centre crop; the card's own transform resizes first.
    assert in_torch.top1 == pytest.approx(84.0, abs=0.2)
    assert abs(in_torch.top1 - in_onnx.top1) <= 100 / 650 + 1e-9
