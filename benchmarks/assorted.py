"""A network of every kind of operator that vision models are made of, at sizes that they have.

It is no model of anyone's: it shows how fast a machine is with a kind that few models have, and how that
changes with size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# Channels and side of feature maps; of the larger ones, convolutions that mix all channels are left out.
MAPS = (
    (16, 112),
    (24, 48),
    (32, 32),
    (48, 56),
    (64, 16),
    (80, 28),
    (128, 8),
    (160, 14),
    (256, 7),
    (320, 4),
    (448, 7),
    (512, 2),
)
# Tokens, width and heads.
TOKENS = ((17, 160, 4), (50, 96, 3), (64, 256, 8), (196, 128, 4), (16, 384, 6), (4, 512, 8), (256, 64, 2))
_DENSE_MACS = 30e6

ACTIVATIONS: tuple[nn.Module, ...] = (
    nn.ReLU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Hardswish(),
    nn.ReLU6(),
    nn.Sigmoid(),
    nn.Hardsigmoid(),
)


class Maps(nn.Module):
    """Operators on a feature map."""

    def __init__(self, channels: int, side: int, number: int) -> None:
        super().__init__()
        self.side = side
        self.stem = nn.Conv2d(3, channels, 1)
        wide = 2 * channels if channels < 300 else channels // 2
        self.widen, self.narrow = nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, channels, 1)
        self.acts = nn.ModuleList(ACTIVATIONS[(number + shift) % len(ACTIVATIONS)] for shift in range(4))
        self.small = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.large = nn.Conv2d(
            channels, channels, 7 if number % 2 else 5, padding=3 if number % 2 else 2, groups=channels
        )
        dense = 9 * channels**2 * side**2 < _DENSE_MACS
        self.dense = nn.Conv2d(channels, channels, 3, padding=1) if dense else nn.Identity()
        self.strided = nn.Conv2d(
            channels, wide if dense else channels, 3, stride=2, padding=1, groups=1 if dense else channels
        )
        # Two channels of each one, and half the side: another kernel, or none of its own.
        self.doubled = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, groups=channels)
        self.batch_norm, self.group_norm = nn.BatchNorm2d(channels), nn.GroupNorm(1, channels)
        self.layer_norm = nn.LayerNorm(channels)
        self.squeeze, self.excite = (
            nn.Conv2d(channels, max(8, channels // 4), 1),
            nn.Conv2d(max(8, channels // 4), channels, 1),
        )
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mean channels of all that comes out, (batch, 8)."""
        x = self.acts[0](self.stem(image[..., : self.side, : self.side]))
        # What a layer reads is pooled in its integers, any other in floats.
        x = x + self.scale * self.narrow(self.acts[1](self.widen(functional.avg_pool2d(x, 3, 1, 1))))
        x = self.batch_norm(x + functional.avg_pool2d(x, 3, 1, 1) - x * 0.5)
        x = self.acts[2](self.small(x)) + self.acts[3](self.large(x))
        gate = self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = self.dense(x * gate)
        x = self.group_norm(x)
        x = self.layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        down = self.strided(x)
        first, second = torch.cat([x, functional.max_pool2d(x, 3, 1, 1)], 1).chunk(2, 1)
        up = functional.interpolate(down, scale_factor=2.0, mode="bilinear")
        mixed = first * second.clamp(-2, 2)
        return mixed.mean((2, 3))[:, :8] + up.mean((2, 3))[:, :8] + self.doubled(x).mean((2, 3))[:, :8]


class Tokens(nn.Module):
    """Attention of several kinds, and a perceptron, on tokens."""

    def __init__(self, count: int, width: int, heads: int) -> None:
        super().__init__()
        self.count, self.width, self.heads = count, width, heads
        self.embed = nn.Linear(3, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.rand(heads, count, count))
        self.grow, self.shrink = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gelu, self.swish = nn.GELU(), nn.Hardswish()
        self.across = nn.Linear(width, 3 * width)
        self.extra = nn.Parameter(torch.rand(1, 1, width))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mean tokens, (batch, 8)."""
        flat = image.flatten(2)[..., : self.count - 1].transpose(1, 2)
        x = torch.cat([self.extra.expand(flat.shape[0], -1, -1), self.embed(flat)], 1)
        x = x + self._attention(self.first(x))
        x = x + self.shrink(self.gelu(self.grow(self.second(x))))
        x = x + self.shrink(self.swish(self.grow(x)))
        x = x + self._channel_attention(x)
        return x[:, 1:].mean(1)[:, :8] + x[:, 0, :8]

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.qkv(x)
            .reshape(-1, self.count, 3, self.heads, self.width // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        weights = (q @ k.transpose(-2, -1) * 0.2 + self.bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, self.count, self.width))

    def _channel_attention(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.across(x)
            .reshape(-1, self.count, 3, self.heads, self.width // self.heads)
            .permute(2, 0, 3, 4, 1)
            .unbind(0)
        )
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return functional.layer_norm(
            mixed.permute(0, 3, 1, 2).reshape(-1, self.count, self.width), (self.width,)
        )


class Assorted(nn.Module):
    """All of it on one image."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            Maps(channels, side, number) for number, (channels, side) in enumerate(MAPS)
        )
        self.tokens = nn.ModuleList(Tokens(*sizes) for sizes in TOKENS)
        self.scale = nn.Parameter(torch.rand(3, 1, 1) + 0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, 3, 112, 112) to (batch, 8)."""
        # Quantized, all parts take their image on one grid: the model's own input has a wider one.
        first = image * self.scale
        found = [part(first) for part in (*self.maps, *self.tokens)]
        return torch.stack(found).sum(0)
