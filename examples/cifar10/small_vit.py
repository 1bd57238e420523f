"""A Vision Transformer that is small enough for a processor to train: 16 tokens of 96 numbers, six blocks."""

from __future__ import annotations

import torch
from torch import nn

PIXELS = 32
CLASSES = 10
WIDTH = 96
HEADS = 3
BLOCKS = 6
HIDDEN = 384


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and added to what it reads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) to the same."""
        qkv = self.qkv(self.norm1(tokens)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        tokens = tokens + self.proj(attended.transpose(1, 2).flatten(2))
        return tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))


class SmallViT(nn.Module):
    """Three convolutions make the tokens, which learn faster from few images than patches do."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(64, WIDTH, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, (PIXELS // 8) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block(hidden) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        tokens = self.stem(image).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def small_vit(hidden: int = HIDDEN) -> nn.Module:
    """An untrained one; `hidden` units in each MLP."""
    return SmallViT(hidden)
