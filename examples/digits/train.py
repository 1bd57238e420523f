"""Train the example model: MobileViT-XXS, a hybrid of convolutions and attention, on handwritten digits.

Usage: python examples/digits/train.py [OUTPUT.safetensors]

Takes about ten minutes on two CPU cores and prints the accuracy on the test images. The weights beside
this file were made by it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from write_images import write_images

from edgevit.graph.card import Preprocessing
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.images import ImageReader, open_folder

make_torchvision_importable()
import timm  # noqa: E402 - torchvision must be importable first

# What the demo's command line says: digits enlarged from 8x8 to the network's 64x64.
PREPROCESSING = Preprocessing(
    input_size=(64, 64), resize_to=(64, 64), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)
EPOCHS = 15
BATCH = 64
LEARNING_RATE = 2e-3


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a folder, prepared, and their classes."""
    images = open_folder(folder, num_classes=10)
    prepared = ImageReader(images, PREPROCESSING).read_all()
    return torch.from_numpy(prepared), torch.tensor(images.require_labels())


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Images moved by up to four pixels, the same for a batch: digits are not always centred."""
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return torch.roll(images, (down, right), dims=(2, 3))


@torch.no_grad()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    predicted = torch.cat([model(part).argmax(1) for part in images.split(128)])
    return 100 * (predicted == labels).float().mean().item()


def train(folder: Path) -> tuple[torch.nn.Module, float]:
    """A trained model and its test accuracy."""
    torch.manual_seed(0)
    images, labels = read(folder / "train")
    model = timm.create_model("mobilevit_xxs", num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(images))
        # The last, smaller batch is left out: batch normalisation wants full ones.
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits = model(shifted(images[chosen]))
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item():.3f}", flush=True)
    return model, accuracy(model, *read(folder / "test"))


def main() -> None:
    """Write the images, train, and save the weights."""
    default = Path(__file__).with_name("mobilevit_xxs_digits.safetensors")
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        model, top1 = train(Path(folder))
    save_file(model.state_dict(), output)
    print(f"{output}: top-1 {top1:.2f} % on the test images")


if __name__ == "__main__":
    main()
