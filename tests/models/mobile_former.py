"""Mobile-Former (arXiv 2108.05895): MobileNet and transformer side by side, a two-way bridge between them.

Written from the paper's section 3, with the widths of its smallest model, Mobile-Former-26M (appendix A).
What makes it hard to take in: cross-attention whose keys are an image, 4-D and 3-D tensors in turn,
activations whose slopes are computed from a token, grouped 1x1 convolutions with channel shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """One Mobile-Former block; a stride of 2 starts a stage and widens depthwise, twice."""

    expansion: int
    channels: int
    stride: int
    second_expansion: int = 0


STEM = 8
LITE_BOTTLENECK = Block(expansion=3, channels=12, stride=2)
BLOCKS = (
    Block(expansion=3, channels=12, stride=1),
    Block(expansion=6, channels=24, stride=2, second_expansion=4),
    Block(expansion=3, channels=24, stride=1),
    Block(expansion=6, channels=48, stride=2, second_expansion=4),
    Block(expansion=4, channels=48, stride=1),
    Block(expansion=6, channels=64, stride=1),
    Block(expansion=6, channels=96, stride=2, second_expansion=4),
    Block(expansion=6, channels=96, stride=1),
)
TOKENS, TOKEN_WIDTH = 3, 128
GROUPS, BRIDGE_HEADS, FORMER_HEADS = 4, 2, 4
HEAD_WIDTH = 1024


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the grid (over its stride), and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(batch, n, heads x width) -> (batch, heads, n, width)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention of (batch, heads, n, width) tensors, the heads joined again."""
    weights = (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).flatten(2)


class DynamicReLU(nn.Module):
    """max(a x, b x) with a and b per channel, computed from the first token (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slopes = nn.Sequential(
            nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH // 4),
            nn.ReLU(inplace=True),
            nn.Linear(TOKEN_WIDTH // 4, 2 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        first, second = (2 * self.slopes(tokens[:, 0]) - 1)[:, :, None, None].chunk(2, dim=1)
        return torch.maximum(image * (1 + first), image * second)


class MobileToFormer(nn.Module):
    """Tokens look at the image, which is its own keys and values (section 3.1, equation 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(TOKEN_WIDTH, channels)
        self.gate = nn.Sequential(nn.Linear(TOKEN_WIDTH, channels), nn.Hardsigmoid())
        self.out = nn.Linear(channels, TOKEN_WIDTH)
        self.norm = nn.LayerNorm(TOKEN_WIDTH)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        pixels = split_heads(image.flatten(2).transpose(1, 2), BRIDGE_HEADS)
        found = attend(split_heads(self.query(tokens), BRIDGE_HEADS), pixels, pixels)
        return self.norm(tokens + self.out(found * 2 * self.gate(tokens)))


class FormerToMobile(nn.Module):
    """Pixels look at the tokens (section 3.1, equation 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = nn.Linear(TOKEN_WIDTH, channels)
        self.value = nn.Linear(TOKEN_WIDTH, channels)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        pixels = split_heads(image.flatten(2).transpose(1, 2), BRIDGE_HEADS)
        keys, values = (split_heads(made(tokens), BRIDGE_HEADS) for made in (self.key, self.value))
        return image + attend(pixels, keys, values).transpose(1, 2).reshape(image.shape)


class Former(nn.Module):
    """A transformer block on the few tokens, normalised after each sum (section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(TOKEN_WIDTH, 3 * TOKEN_WIDTH)
        self.out = nn.Linear(TOKEN_WIDTH, TOKEN_WIDTH)
        self.norm = nn.LayerNorm(TOKEN_WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(TOKEN_WIDTH, 2 * TOKEN_WIDTH), nn.GELU(), nn.Linear(2 * TOKEN_WIDTH, TOKEN_WIDTH)
        )
        self.mlp_norm = nn.LayerNorm(TOKEN_WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (split_heads(part, FORMER_HEADS) for part in self.qkv(tokens).chunk(3, dim=2))
        tokens = self.norm(tokens + self.out(attend(queries, keys, values)))
        return self.mlp_norm(tokens + self.mlp(tokens))


class Mobile(nn.Module):
    """An inverted bottleneck with dynamic ReLUs."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        width = inputs * block.expansion
        self.expand = conv_norm(inputs, width, groups=GROUPS)
        self.shuffle = nn.ChannelShuffle(GROUPS)
        self.expand_activation = DynamicReLU(width)
        self.depthwise = conv_norm(width, width, 3, groups=width)
        self.depthwise_activation = DynamicReLU(width)
        self.project = conv_norm(width, block.channels, groups=GROUPS)
        self.residual = inputs == block.channels

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        inner = self.expand_activation(self.shuffle(self.expand(image)), tokens)
        inner = self.depthwise_activation(self.depthwise(inner), tokens)
        result = self.shuffle(self.project(inner))
        return image + result if self.residual else result


class LitePair(nn.Module):
    """Two lite bottlenecks, each widening in its depthwise convolution; the first one strides."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        first, second = inputs * block.expansion, block.channels * block.second_expansion
        self.down = conv_norm(inputs, first, 3, block.stride, groups=inputs)
        self.down_activation = DynamicReLU(first)
        self.down_project = conv_norm(first, block.channels, groups=GROUPS)
        self.wide = conv_norm(block.channels, second, 3, groups=block.channels)
        self.wide_activation = DynamicReLU(second)
        self.wide_project = conv_norm(second, block.channels, groups=GROUPS)
        self.shuffle = nn.ChannelShuffle(GROUPS)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        inner = self.down_activation(self.shuffle(self.down(image)), tokens)
        image = self.down_project(inner)
        inner = self.wide_activation(self.shuffle(self.wide(image)), tokens)
        return image + self.wide_project(inner)


class MobileFormerBlock(nn.Module):
    """Mobile -> Former, Former, Mobile, Former -> Mobile (figure 3)."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        self.to_former = MobileToFormer(inputs)
        self.former = Former()
        self.mobile = LitePair(inputs, block) if block.stride > 1 else Mobile(inputs, block)
        self.to_mobile = FormerToMobile(block.channels)

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.former(self.to_former(image, tokens))
        return self.to_mobile(self.mobile(image, tokens), tokens), tokens


class MobileFormer(nn.Module):
    """Mobile-Former-26M: (batch, 3, height, width) -> (batch, classes), any size that 32 divides."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(TOKENS, TOKEN_WIDTH))
        self.stem = nn.Sequential(conv_norm(3, STEM, 3, 2), nn.ReLU6(inplace=True))
        width, channels = STEM * LITE_BOTTLENECK.expansion, LITE_BOTTLENECK.channels
        self.lite = nn.Sequential(
            conv_norm(STEM, width, 3, LITE_BOTTLENECK.stride, groups=STEM),
            nn.ReLU6(inplace=True),
            nn.ChannelShuffle(STEM),
            conv_norm(width, channels, groups=GROUPS),
        )
        widths = [channels, *(block.channels for block in BLOCKS)]
        self.blocks = nn.ModuleList(
            MobileFormerBlock(inputs, block) for inputs, block in zip(widths, BLOCKS, strict=False)
        )
        last = widths[-1]
        self.to_former = MobileToFormer(last)
        self.widen = nn.Sequential(conv_norm(last, 6 * last, groups=GROUPS), nn.ReLU6(inplace=True))
        self.head = nn.Sequential(
            nn.Linear(6 * last + TOKEN_WIDTH, HEAD_WIDTH), nn.Hardswish(), nn.Linear(HEAD_WIDTH, num_classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.tokens.expand(image.shape[0], -1, -1)
        image = self.lite(self.stem(image))
        for block in self.blocks:
            image, tokens = block(image, tokens)
        tokens = self.to_former(image, tokens)
        pooled = self.widen(image).mean(dim=(2, 3))
        return self.head(torch.cat([pooled, tokens[:, 0]], dim=1))
