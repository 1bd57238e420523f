"""What hybrids are built of, small: branches, attentions in every spelling, feature maps and tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 8
# Height, width.
GRID = (4, 4)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Residual(nn.Module):
    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ToTokens(nn.Module):
    """(batch, channels, height, width) -> (batch, height x width, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class ToMap(nn.Module):
    """The way back, to a grid of `GRID`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, GRID)


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(query, key, value)


def spelled_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(1, 2)).softmax(dim=-1) @ value


def as_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bij,bjc->bic", torch.einsum("bic,bjc->bij", query, key).softmax(dim=-1), value)


def linear_in_tokens(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Without a softmax, as EfficientViT's (arXiv 2205.14756)."""
    return query.relu() @ (key.relu().transpose(1, 2) @ value)


def separable(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One context vector, as MobileViTv2's (arXiv 2206.02680)."""
    scores = query.mean(dim=-1, keepdim=True).softmax(dim=1)
    return value.relu() * (key * scores).sum(dim=1, keepdim=True)


ATTENTIONS: tuple[Attend, ...] = (fused, spelled_out, as_einsum, linear_in_tokens, separable)


class Attention(nn.Module):
    """Self-attention of (batch, tokens, channels)."""

    def __init__(self, attend: Attend = fused, width: int = WIDTH) -> None:
        super().__init__()
        self.attend = attend
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.qkv(x).chunk(3, dim=-1)))


def attention(attend: Attend = fused) -> nn.Module:
    return Residual(nn.LayerNorm(WIDTH), Attention(attend))


def feed_forward() -> nn.Module:
    return Residual(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))


class Layer(nn.Module):
    """A transformer layer."""

    def __init__(self, attend: Attend = fused) -> None:
        super().__init__()
        self.attention = attention(attend)
        self.feed_forward = feed_forward()

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.attention(x))


def convolution(inputs: int = WIDTH, outputs: int = WIDTH, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


def depthwise(width: int = WIDTH, stride: int = 1) -> nn.Module:
    return nn.Conv2d(width, width, 3, stride, 1, groups=width)


def bottleneck(stride: int = 1) -> nn.Module:
    """Expand, depthwise, project, without the sum."""
    return nn.Sequential(
        nn.Conv2d(WIDTH, 16, 1), nn.SiLU(), depthwise(16, stride), nn.SiLU(), nn.Conv2d(16, WIDTH, 1)
    )


class SqueezeExcitation(nn.Module):
    """A gate for each channel, computed from its mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True))


class Classify(nn.Module):
    """Pool whatever is between batch and channels (the last dimension, or the second of a map)."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)) if x.ndim == 4 else x.mean(1))


def patches() -> nn.Module:
    """A plain ViT's embedding: the kernel is its stride."""
    return nn.Conv2d(3, WIDTH, 2, 2)


def stem() -> nn.Module:
    return convolution(3, WIDTH, stride=2)
