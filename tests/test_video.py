"""Video classifiers: clips instead of images, from the source to every format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.export import export
from edgevit.export.verify import noise
from edgevit.graph.capture import capture
from edgevit.graph.card import Preprocessing
from edgevit.graph.program import Program
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.images import ImageReader, open_folder

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


class Clips(nn.Module):
    """Tubelets of two frames, averaged, five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.tubelets = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
        self.head = nn.Linear(8, 5)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.tubelets(clips.transpose(1, 2)).relu().mean((2, 3, 4)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Clips(), input_size=(8, 12), frames=4, name="clips", **HALF)


def test_the_card_says_how_many_frames(program, tmp_path):
    preprocessing = program.card.preprocessing
    assert preprocessing.input_shape == (4, 3, 8, 12)
    assert preprocessing.describe().startswith("clips of 4 frames, each: ")
    assert program.input_shape[1:] == (4, 3, 8, 12)
    assert Program.load(program.save(tmp_path / "clips.pt2")).card == program.card


def test_frames_that_the_model_does_not_take_are_refused():
    with pytest.raises(EdgevitError, match="cannot be captured for a 3x8x12 image"):
        capture(Clips(), input_size=(8, 12), **HALF)
    with pytest.raises(EdgevitError, match="do not fit together: frames"):
        capture(Clips(), input_size=(8, 12), frames=0, **HALF)


@pytest.mark.parametrize(
    ("format_", "library"), [("onnx", "onnxscript"), ("tflite", "litert_torch"), ("coreml", "coremltools")]
)
def test_clips_are_exported_and_verified(program, tmp_path, format_, library):
    pytest.importorskip(library)
    (artefact,) = export(program, to=[format_], precision="fp32", output=tmp_path).artefacts
    assert artefact.verification.passed
    assert artefact.info.inputs[0].shape == (1, 4, 3, 8, 12)


def test_a_tflite_clip_can_have_its_channels_last(program, tmp_path):
    pytest.importorskip("litert_torch")
    from edgevit.export.tflite import TfliteArtefact, read_metadata, to_tflite

    info = to_tflite(program, tmp_path / "clips.tflite", layout="nhwc")
    artefact = TfliteArtefact.open(tmp_path / "clips.tflite")
    assert info.inputs[0].shape == (1, 4, 8, 12, 3)
    assert artefact.inputs[0].shape == (1, 4, 3, 8, 12)
    dimensions = read_metadata(artefact.path).dimensions
    assert dimensions == ("batch", "frames", "height", "width", "channels")
    clips = noise(program.card.preprocessing, 2)
    np.testing.assert_allclose(artefact.run(clips)[0], program.run(clips)[0], atol=1e-6)


def test_core_ml_takes_no_clip_as_an_image(program, tmp_path):
    pytest.importorskip("coremltools")
    with pytest.raises(EdgevitError, match="--coreml-input image: the model takes clips of 4 frames; pass"):
        export(program, to=["coreml"], coreml_input="image", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_are_no_clips(program, image_folder):
    with pytest.raises(EdgevitError, match=r"holds images, and the model takes clips of 4 frames"):
        ImageReader(open_folder(image_folder), program.card.preprocessing)


def test_the_command_line_takes_frames(tmp_path, monkeypatch, capsys):
    from edgevit.cli import run

    (tmp_path / "factory.py").write_text("from tests.test_video import Clips\ndef build(): return Clips()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--input-size", "8x12", "--frames", "4", "--mean", "0.5", "--std", "0.5", "-o", "c.pt2"]
    run(["capture", "factory:build", *arguments])
    assert "clips of 4 frames" in capsys.readouterr().out
    assert Program.load("c.pt2").card.preprocessing.frames == 4


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "num_frames": 4,
    "num_labels": 5,
}


@pytest.mark.parametrize(
    ("family", "options", "processor", "mean"),
    [
        ("VideoMAE", {"patch_size": 8}, "VideoMAEImageProcessor", 0.5),
        # It scales to -1..1 before it normalises by 0.5: in 0..1 that is a mean of 0.75.
        ("Vivit", {"tubelet_size": [2, 8, 8]}, "VivitImageProcessor", 0.75),
        ("Timesformer", {"patch_size": 8}, "VideoMAEImageProcessor", 0.5),
    ],
)
def test_a_transformers_video_folder_is_captured(tmp_path, family, options, processor, mean):
    make_torchvision_importable()
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**SMALL, **options)
    model = getattr(transformers, f"{family}ForVideoClassification")(config).eval()
    model.save_pretrained(tmp_path)
    prepare = getattr(transformers, processor)(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    )
    prepare.save_pretrained(tmp_path)
    program = capture(f"hf:{tmp_path}")
    card = program.card.preprocessing
    assert (card.input_shape, card.mean, card.resize_to) == ((4, 3, 32, 32), (mean,) * 3, 36)
    clips = noise(card, 2)
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(clips)).logits.numpy()
    np.testing.assert_allclose(program.run(clips)[0], expected, rtol=1e-4, atol=1e-5)


def test_noise_has_the_pixels_that_images_have():
    prepared = noise(Preprocessing(input_size=(8, 8), resize_to=None), 3)
    card = Preprocessing(input_size=(8, 8), resize_to=None)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (card.mean, card.std))
    pixels = (prepared * std + mean) * 255
    assert prepared.shape == (3, 3, 8, 8)
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-3)
    assert (pixels.min() > -0.5, pixels.max() < 255.5, pixels.std() > 60) == (True, True, True)
