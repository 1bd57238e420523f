"""transformers image classifiers, built from configurations: no network, no published weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.export.verify import TOLERANCES, compare
from edgevit.graph.capture import capture
from edgevit.graph.torchvision_shim import make_torchvision_importable
from tests.zoo import LogitsOnly, example, rerandomise, settle


@pytest.fixture(scope="module")
def transformers():
    make_torchvision_importable()
    return pytest.importorskip("transformers")


def mobilevit(transformers):
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64], num_labels=5
    )
    return transformers.MobileViTForImageClassification(config), transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    )


def mobilevitv2(transformers):
    config = transformers.MobileViTV2Config(image_size=64, width_multiplier=0.5, num_labels=5)
    return transformers.MobileViTV2ForImageClassification(config), transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    )


def dinov2(transformers):
    config = transformers.Dinov2Config(
        image_size=56, patch_size=14, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, num_labels=5
    )
    return transformers.Dinov2ForImageClassification(config), transformers.BitImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}
    )


@pytest.fixture(
    scope="module",
    params=[mobilevit, pytest.param(mobilevitv2, marks=pytest.mark.slow), dinov2],
    ids=lambda build: build.__name__,
)
def saved(request, transformers, tmp_path_factory):
    """A folder as `save_pretrained` leaves it, and the model in it."""
    torch.manual_seed(0)
    model, processor = request.param(transformers)
    crop = processor.crop_size
    settle(LogitsOnly(rerandomise(model)), example((3, crop["height"], crop["width"]), 8))
    model.eval()
    folder = tmp_path_factory.mktemp(request.param.__name__)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def test_a_saved_folder_is_captured_and_exported(saved, tmp_path):
    folder, model, processor = saved
    program = capture(f"hf:{folder}")
    assert program.num_classes == 5
    card = program.card.preprocessing
    assert card.input_size == (processor.crop_size["height"], processor.crop_size["width"])
    assert card.resize_to == processor.size["shortest_edge"]
    rgb = np.random.default_rng(0).standard_normal((3, *card.input_shape), dtype=np.float32)
    flips = getattr(processor, "do_flip_channel_order", False)
    with torch.no_grad():
        expected = model(torch.from_numpy(rgb[:, ::-1].copy() if flips else rgb)).logits.numpy()
    assert np.allclose(program.run(rgb)[0], expected, rtol=1e-4, atol=1e-5)
    # Both are rounded: how far, this says of the one, on random weights, which amplify it.
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(
            torch.from_numpy(rgb[:, ::-1].copy() if flips else rgb).double()
        )
    rounding = float(np.abs(expected - exact.logits.numpy()).max() / np.abs(expected).max())
    to_onnx(program, tmp_path / "a.onnx")
    result = compare(
        OnnxArtefact.open(tmp_path / "a.onnx"),
        program,
        rgb,
        described="noise",
        tolerance=TOLERANCES["fp32"] + 4 * rounding,
        name="a.onnx",
    )
    assert rounding < 1e-4
    assert result.passed, result.outputs


def test_its_labels_are_kept_when_they_say_something(transformers, tmp_path):
    model, processor = dinov2(transformers)
    model.config.id2label = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "elk"}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert capture(f"hf:{tmp_path}").card.labels == ("ant", "bee", "cat", "dog", "elk")
    assert capture(f"hf:{tmp_path}", labels=("a", "b", "c", "d", "e")).card.labels[0] == "a"


def test_folders_that_are_no_model_are_refused(transformers, tmp_path):
    with pytest.raises(EdgevitError, match=r"has no config\.json"):
        capture(f"hf:{tmp_path}")
    model, _ = dinov2(transformers)
    model.config.save_pretrained(tmp_path)
    with pytest.raises(EdgevitError, match="the files in .* are incomplete"):
        capture(f"hf:{tmp_path}")
    with pytest.raises(
        EdgevitError, match=r"has no preprocessor_config\.json.* pass --input-size, --mean, --std"
    ):
        capture(f"hf:{tmp_path}", weights="random")
    program = capture(
        f"hf:{tmp_path}", weights="random", input_size=(56, 56), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert program.num_classes == 5


def test_a_backbone_without_its_classifier_is_refused(transformers, tmp_path):
    model, processor = dinov2(transformers)
    model.dinov2.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(EdgevitError, match=r"its weights lack classifier\.bias"):
        capture(f"hf:{tmp_path}")
