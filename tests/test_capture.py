"""Models from every source become Programs, or are refused in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.graph.weights import digest, load_into, read_weights
from tests.conftest import LABELS, tiny_model

FACTORY = "tests.conftest:tiny_model"
SAID = {"input_size": (16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module")
def timm():
    make_torchvision_importable()
    return pytest.importorskip("timm")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_factory_is_captured_with_a_dynamic_batch():
    program = capture(FACTORY, **SAID)
    assert program.batch is None
    assert program.card.name == "tiny_model"
    assert program.card.provenance.source == FACTORY
    assert program.card.preprocessing.resize_to == 16


def test_num_classes_reaches_the_factory():
    assert capture(FACTORY, num_classes=7, **SAID).num_classes == 7


def test_a_model_that_brings_no_preprocessing_needs_it_said():
    with pytest.raises(EdgevitError, match="brings no preprocessing.* pass --input-size, --std"):
        capture(FACTORY, mean=(0.5,) * 3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("resnet50", "'resnet50' is not a model source; use timm:NAME, hf:ID_OR_DIR"),
        ("tests.nowhere:model", "there is no Python module 'tests.nowhere'"),
        ("tests.conftest:tiny_modell", "has no function 'tiny_modell'; did you mean \"tiny_model\""),
        ("tests.conftest:write_folder", "cannot be called with no arguments"),
        ("builtins:dict", "returned a dict; a torch.nn.Module is needed"),
        ("nowhere.pt2", "nowhere.pt2 does not exist"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_sentence(source, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        capture(source, **SAID)


def test_labels_must_be_as_many_as_the_classes():
    with pytest.raises(EdgevitError, match="--labels names 2 classes, tiny_model tells 3 apart"):
        capture(FACTORY, labels=("a", "b"), **SAID)


def test_a_labels_file_has_one_name_a_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("circle\nsquare\ncross\n")
    assert capture(FACTORY, labels=path, **SAID).card.labels == LABELS
    path.write_text("circle\n\ncross\n")
    with pytest.raises(EdgevitError, match="line 2 of .* is empty"):
        capture(FACTORY, labels=path, **SAID)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EdgevitError, match="is not UTF-8 text"):
        capture(FACTORY, labels=path, **SAID)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"interpolation": "bicubik"}, "--interpolation: 'bicubik' is unknown; did you mean \"bicubic\""),
        ({"std": (0.5, 0.0, 0.5)}, "every value must be above 0"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values"),
        ({"num_classes": 0}, "--num-classes: 0 is not a number of classes"),
    ],
)
def test_choices_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        capture(FACTORY, **{**SAID, **options})


def test_a_model_that_forbids_a_dynamic_batch_is_captured_for_one_image():
    class OneOnly(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.reshape(1, 3, -1).mean(dim=2)

    program = capture(OneOnly(), **SAID)
    assert program.batch == 1
    assert program.card.steps[0].measured["static_because"]
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    assert np.allclose(program.run(images)[0], images.mean(axis=(2, 3)), atol=1e-6)


def test_a_model_that_cannot_be_exported_says_why():
    class Branching(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean(dim=(2, 3)) if image.sum() > 0 else image.amax(dim=(2, 3))

    with pytest.raises(EdgevitError, match="Branching cannot be captured for a 3x16x16 image: "):
        capture(Branching(), **SAID)


def test_a_model_that_is_random_is_refused():
    class Noisy(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.mean(dim=(2, 3)) + torch.rand(1)

    with pytest.raises(EdgevitError, match="its exported graph differs from the model"):
        capture(Noisy(), **SAID)


def test_outputs_that_are_no_logits_are_refused():
    class Map(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * 2

    with pytest.raises(EdgevitError, match="its first output has 4 dimensions"):
        capture(Map(), **SAID)


def test_further_outputs_are_named():
    class Two(nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return image.mean(dim=(2, 3)), image

    program = capture(Two(), **SAID)
    assert program.card.outputs == ("logits", "output_1")
    logits, same = program.run(np.ones((2, 3, 16, 16), np.float32))
    assert logits.shape == (2, 3)
    assert same.shape == (2, 3, 16, 16)


def test_training_mode_is_left_behind():
    model = nn.Sequential(nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    program = capture(model, **SAID)
    assert np.allclose(program.run(np.ones((1, 3, 16, 16), np.float32))[0], 1.0)


class TestWeights:
    def test_safetensors_and_torch_files_load_the_same(self, tmp_path):
        state = {name: tensor + 1 for name, tensor in tiny_model().state_dict().items()}
        save_file(state, tmp_path / "a.safetensors")
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "ddp.pth")
        for name in ("a.safetensors", "a.pth", "ddp.pth"):
            program = capture(FACTORY, weights=tmp_path / name, **SAID)
            assert torch.equal(program.exported.state_dict["head.bias"], state["head.bias"])
            assert program.card.provenance.weights == name

    def test_a_torch_file_that_needs_unpickling_is_refused_unread(self, tmp_path):
        canary = tmp_path / "canary"
        torch.save({"state_dict": Canary(canary)}, tmp_path / "a.pth")
        with pytest.raises(EdgevitError, match=r"never unpickles other objects\); save its state_dict"):
            read_weights(tmp_path / "a.pth")
        assert not canary.exists()

    @pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
    def test_a_damaged_file_is_refused(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"hello there, this is no tensor at all")
        with pytest.raises(EdgevitError, match=name):
            read_weights(tmp_path / name)

    def test_a_missing_file_is_named(self):
        with pytest.raises(EdgevitError, match="--weights: nowhere.pth does not exist"):
            capture(FACTORY, weights="nowhere.pth", **SAID)

    def test_a_file_without_tensors_is_refused(self, tmp_path):
        torch.save({"epoch": 3}, tmp_path / "a.pth")
        with pytest.raises(EdgevitError, match="holds no tensors"):
            read_weights(tmp_path / "a.pth")
        torch.save([1, 2], tmp_path / "a.pth")
        with pytest.raises(EdgevitError, match="holds a list, not a state_dict"):
            read_weights(tmp_path / "a.pth")

    def test_the_wrong_number_of_classes_names_the_option(self):
        with pytest.raises(EdgevitError, match="if it is the classifier, pass --num-classes 5"):
            load_into(tiny_model(), tiny_model(5).state_dict(), "w")

    def test_weights_of_another_model_are_refused_whole(self):
        state = tiny_model().state_dict()
        state["blocks.0.weight"] = state.pop("head.weight")
        model = tiny_model()
        before = digest(model.state_dict().items())
        with pytest.raises(EdgevitError, match=r"it lacks 1 .*head\.weight.* it has 1 .*blocks\.0\.weight"):
            load_into(model, state, "w")
        assert digest(model.state_dict().items()) == before

    def test_the_digest_sees_names_shapes_and_values(self):
        tensors = {"a": torch.arange(4.0), "b": torch.zeros(2)}
        same = {"b": torch.zeros(2), "a": torch.arange(4.0)}
        assert digest(tensors.items()) == digest(same.items())
        for other in ({"a": torch.arange(4.0).reshape(2, 2)}, {"a": torch.ones(4)}, {"c": torch.arange(4.0)}):
            assert digest({**tensors, **other}.items()) != digest(tensors.items())


class TestRecapture:
    def test_a_program_gets_new_labels_and_preprocessing(self, tiny_pt2, tmp_path):
        program = capture(str(tiny_pt2), labels=("a", "b", "c"), interpolation="bilinear", name="renamed")
        assert program.card.labels == ("a", "b", "c")
        assert program.card.preprocessing.interpolation == "bilinear"
        assert program.card.name == "renamed"
        assert Program.load(program.save(tmp_path / "b.pt2")).card == program.card

    def test_what_is_fixed_in_the_graph_cannot_be_changed(self, tiny_pt2):
        with pytest.raises(EdgevitError, match="--weights and --num-classes are fixed in it"):
            capture(str(tiny_pt2), num_classes=4)
        with pytest.raises(EdgevitError, match="--input-size cannot change it"):
            capture(str(tiny_pt2), input_size=(32, 32))

    def test_a_graph_that_torch_exported_gets_a_card(self, tiny_program, tmp_path):
        path = tmp_path / "bare.pt2"
        torch.export.save(tiny_program.exported, path)
        program = capture(str(path), **SAID)
        assert program.card.name == "bare"
        assert program.num_classes == 3
        with pytest.raises(EdgevitError, match="has no card, so how its images are prepared must be said"):
            capture(str(path))


class TestTimm:
    def test_an_unknown_name_gets_the_closest(self, timm):
        with pytest.raises(EdgevitError, match='did you mean .*"mobilevit_xxs"'):
            capture("timm:mobilevit_xss")

    def test_its_card_is_the_models_own(self, timm):
        card = capture("timm:mobilevit_xxs", weights="random", num_classes=4).card
        assert card.preprocessing.input_size == (256, 256)
        assert card.preprocessing.resize_to == 284
        assert card.preprocessing.mean == (0.0, 0.0, 0.0)
        assert card.provenance.weights == "random"
        assert card.labels is None
        assert card.licence is None

    def test_the_input_size_reaches_models_with_position_embeddings(self, timm):
        program = capture("timm:deit_tiny_patch16_224", weights="random", input_size=(96, 96))
        assert program.input_shape[2:] == (96, 96)
        assert program.card.preprocessing.resize_to == 106

    def test_a_model_without_published_weights_says_so(self, timm, monkeypatch):
        config = timm.models.get_pretrained_cfg("mobilevit_xxs")
        monkeypatch.setattr(type(config), "has_weights", property(lambda _: False))
        with pytest.raises(EdgevitError, match=r"has no published weights; pass --weights FILE"):
            capture("timm:mobilevit_xxs")

    def test_weights_that_cannot_be_downloaded_are_one_sentence(self, timm, monkeypatch):
        # As without a network: the hub client answers from its (empty) cache alone.
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(timm.models._builder, "has_hf_hub", lambda **_: True)
        with pytest.raises(EdgevitError, match="could not be downloaded .* or pass --weights FILE"):
            capture("timm:mobilevit_xxs.cvnets_in1k")

    def test_published_weights_bring_their_labels(self, timm):
        from edgevit.graph.timm_source import _timm_labels

        labels = _timm_labels(timm, timm.create_model("mobilevit_xxs"))
        assert len(labels) == 1000
        assert labels[0].startswith("tench")
        assert _timm_labels(timm, timm.create_model("mobilevit_xxs", num_classes=7)) is None

    def test_real_weights_give_their_published_classes(self, timm, shared):
        weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
        with pytest.raises(EdgevitError, match="pass --num-classes 1000"):
            capture("timm:vit_tiny_patch16_224", weights=weights, num_classes=10)
        hybrid = shared / "weights" / "mobilevit_xxs_cifar10_64px.safetensors"
        with pytest.raises(EdgevitError, match="is of another model"):
            capture("timm:vit_tiny_patch16_224", weights=hybrid)


def test_a_missing_library_names_the_extra():
    """In a Python where timm cannot be found; the real import system, not a stand-in."""
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'timm' else find(name, *rest)\n"
        "from edgevit.cli import run\n"
        "sys.exit(run(['capture', 'timm:mobilevit_xxs', '-o', 'x.pt2']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == MissingDependencyError.exit_code
    assert 'pip install "edgevit[timm]"' in result.stderr
    assert "Traceback" not in result.stderr
    assert not os.path.exists("x.pt2")  # noqa: PTH110
