"""Small classifiers of every kind that a head is taken from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgevit.graph.program import Program
from tests.quant.helpers import SHAPE, Folded, Net, Tokens, seeded
from tests.rewrites.helpers import program_of

CLASSES = 4


class ConvolutionHead(nn.Module):
    """Its classifier is a convolution of one pixel, as in MobileNets; its bias can be left out."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, CLASSES, 1, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.stem(image).relu(), 1)
        return self.head(pooled).view(-1, CLASSES)


class TokenHead(nn.Module):
    """Its classifier reads (batch, 1, channels), has no bias and shares its weight with another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES, bias=False)
        self.back, self.head = nn.Linear(CLASSES, 8), nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.mix.weight

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        tokens = tokens + self.back(self.mix(tokens).relu())
        return self.head(tokens.mean(1, keepdim=True)).squeeze(1).clone()


MODULES: dict[str, Callable[[], nn.Module]] = {
    "net": Net,
    "tokens": Tokens,
    "folded": Folded,
    "convolution": ConvolutionHead,
    "convolution-no-bias": lambda: ConvolutionHead(bias=False),
    "token": TokenHead,
}


def classifier(name: str) -> Program:
    return program_of(seeded(MODULES[name]), SHAPE)
