"""Small models with what the field's have: convolutions, tokens, attention, patches, gates, norms."""

import torch
from torch import nn

from edgevit.graph.capture import capture
from edgevit.graph.program import Program


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of order one: zeros and ones hide whole branches."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1 and tensor.abs().max() > 1e-6:
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise * 0.2 - 0.1 if "bias" in name or "mean" in name else noise * 0.5 + 0.75)
    return module


class ConvStage(nn.Module):
    """Convolutions, batch norms, squeeze-and-excitation and a channel LayerNorm: nothing but feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU())
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(x.mean((2, 3)))


class Hybrid(nn.Module):
    """A stem, MobileViT patches, attention over them, back to a map, a gate that expands, a linear head."""

    def __init__(self, patch: int = 2, heads: int = 2, width: int = 8) -> None:
        super().__init__()
        self.patch, self.heads = patch, heads
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.SiLU())
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.group_norm = nn.GroupNorm(1, width)
        self.fuse = nn.Conv2d(width, width, 3, 1, 1)
        self.head = nn.Linear(width, 5)

    def attend(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x):
        x = self.stem(x)
        batch, width, rows, columns = x.shape
        p = self.patch
        high, wide = rows // p, columns // p
        t = x.reshape(batch * width * high, p, wide, p).transpose(1, 2)
        t = (
            t.reshape(batch, width, high * wide, p * p)
            .transpose(1, 3)
            .reshape(batch * p * p, high * wide, width)
        )
        t = t + self.attend(t)
        t = t.reshape(batch, p * p, high * wide, width).transpose(1, 3)
        t = t.reshape(batch * width * high, wide, p, p).transpose(1, 2).reshape(batch, width, rows, columns)
        x = x + self.fuse(self.group_norm(t))
        gate = x.mean(3, keepdim=True).expand_as(x)
        return self.head((x.relu() * gate).mean((2, 3)))


def program_of(module: nn.Module, *, size=(16, 24), labels=None, name="small") -> Program:
    return capture(
        randomise(module),
        input_size=size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        labels=labels,
        name=name,
    )
