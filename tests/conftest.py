"""What tests share: a tiny hybrid captured once, folders of generated images, the optional real data."""

from __future__ import annotations

import gc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.graph.torchvision_shim import make_torchvision_importable

# So that a test may import timm or transformers first.
make_torchvision_importable()

SHARED = Path(__file__).resolve().parents[2] / "shared"
LABELS = ("circle", "square", "cross")


class TinyHybrid(nn.Module):
    """A convolution, one attention block over its tokens, three classes: what a MobileViT is made of."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.conv(image)).relu().flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed = tokens + attended.transpose(1, 2).flatten(2)
        return self.head(mixed.mean(dim=1))


def tiny_model(num_classes: int = 3) -> TinyHybrid:
    """The factory that `tests.conftest:tiny_model` names."""
    torch.manual_seed(0)
    return TinyHybrid(num_classes)


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_stays() -> None:
    """Nothing that lives before a module's tests is looked through for garbage while they run.

    Converters collect garbage on every run, through every object of every library that was ever imported.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_program() -> Program:
    return capture(
        tiny_model(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, labels=LABELS, name="tiny"
    )


@pytest.fixture(scope="session")
def tiny_pt2(tiny_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_program.save(tmp_path_factory.mktemp("tiny") / "tiny.pt2")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    from edgevit.export import export

    folder = tmp_path_factory.mktemp("tiny-onnx")
    export(tiny_program, output=folder / "out")
    return folder / "out" / "model.onnx"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Four images of each class of `LABELS`, as PNG, JPEG, WebP and BMP."""
    return write_folder(tmp_path / "images")


def write_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for suffix in ("png", "jpg", "webp", "bmp"):
            image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            assert cv2.imwrite(str(root / label / f"a.{suffix}"), image)
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights; a clone without them skips."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with real images and weights is not there")
    return SHARED
