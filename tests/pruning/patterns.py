"""Six patterns in colour, and a small Vision Transformer that learns in seconds to tell them apart."""

from __future__ import annotations

import functools

import torch
from torch import nn

from edgevit.graph.card import Card, Preprocessing, Provenance
from edgevit.graph.program import Program, export_module
from edgevit.pruning.loop import TrainingOptions
from edgevit.pruning.training import train

LABELS = ("rows", "columns", "checks", "disc", "frame", "cross")
SIZE = 16
CARD = Card(
    name="patterns",
    preprocessing=Preprocessing(
        input_size=(SIZE, SIZE), resize_to=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
    labels=LABELS,
    provenance=Provenance(source="test", weights="random", weights_sha256="", tools={}),
)


def patterns(count: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 3, 16, 16) float32 of -1 to 1 and their classes, as many of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(LABELS)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    from_middle = (rows - 7.5).square() + (columns - 7.5).square()
    masks = torch.stack(
        [
            rows % 4 < 2,
            columns % 4 < 2,
            (rows // 4 + columns // 4) % 2 == 0,
            from_middle < 25,
            torch.maximum((rows - 7.5).abs(), (columns - 7.5).abs()) > 5,
            torch.minimum((rows - 7.5).abs(), (columns - 7.5).abs()) < 2,
        ]
    ).float()
    colours = torch.rand(count, 3, 1, 1, generator=generator) * 0.8 + 0.2
    noise = torch.randn(count, 3, SIZE, SIZE, generator=generator) * 1.1
    images = masks[labels][:, None] * colours * 2 - 1 + noise
    return images.clamp(-1, 1), labels


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm1(tokens)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        tokens = tokens + self.proj(attended.transpose(1, 2).flatten(2))
        return tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))


class TinyViT(nn.Module):
    """Sixteen patches, one block, the mean of all tokens."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(0.1 * torch.randn(1, (SIZE // 4) ** 2, width))
        self.block = _Block(width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(LABELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.block(tokens)).mean(1))


@functools.cache
def learned() -> Program:
    """A trained one."""
    torch.manual_seed(0)
    module = TinyViT().eval()
    program = Program(export_module(module, torch.zeros(2, 3, SIZE, SIZE), dynamic_batch=True), CARD)
    options = TrainingOptions(epochs=8, batch=48, lr=5e-3)
    return train(program, *patterns(960, seed=1), options=options)
