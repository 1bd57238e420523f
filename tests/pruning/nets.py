"""Small networks whose axes can be told apart by their sizes, and what stands between their products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgevit.graph.axes import Axis, Dimensions, find_axes
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewrites import prepare_for_export
from tests.quant.helpers import SHAPE, seeded
from tests.rewrites.helpers import program_of


def program(module: Callable[[], nn.Module]) -> Program:
    """Of a module that takes images of `SHAPE`, its weights the same every time."""
    return prepare_for_export(program_of(seeded(module), SHAPE))


def axis_of(found: Program, role: str, size: int | None = None) -> Axis:
    """The only axis of a role, and of a size, that may be sliced."""
    (axis,) = (
        axis
        for axis in find_axes(found)
        if not axis.fixed and axis.role == role and size in {None, axis.size}
    )
    return axis


def reads_of(found: Program, role: str, size: int | None = None) -> tuple[Read, ...]:
    """The reads of the only axis of a role and size."""
    dimensions = Dimensions(found)
    return reads(dimensions, leaf_of(dimensions, role, size))


def leaf_of(dimensions: Dimensions, role: str, size: int | None = None) -> Dim:
    axes = dimensions.axes()
    return axes[axis_of(dimensions.program, role, size)]


class Attention(nn.Module):
    """Four by four tokens of 8, an attention whose operands have layers of their own, and a classifier.

    Heads are 2, queries 5 and values 3 wide.
    """

    def __init__(self, heads: int = 2, *, bias: bool = True, spelled: bool = False) -> None:
        super().__init__()
        self.heads, self.spelled = heads, spelled
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.q, self.k = nn.Linear(8, heads * 5, bias=bias), nn.Linear(8, heads * 5, bias=bias)
        self.v, self.out = nn.Linear(8, heads * 3, bias=bias), nn.Linear(heads * 3, 8, bias=bias)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            for layer in (self.q, self.k):
                layer.weight *= 3

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        operands = (self.by_head(value) for value in self.operands(tokens))
        mixed = self.mix(*operands).transpose(1, 2).flatten(2)
        return self.head((tokens + self.out(mixed)).mean(1))

    def operands(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q(tokens), self.k(tokens), self.v(tokens)

    def by_head(self, value: torch.Tensor) -> torch.Tensor:
        return value.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def mix(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if not self.spelled:
            return nn.functional.scaled_dot_product_attention(query, key, value)
        return ((query * 0.4) @ key.transpose(-2, -1)).softmax(-1) @ value


class Convolutions(nn.Module):
    """A convolution with a stride, one in two groups, one over single channels, and one of one pixel."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=bias)
        self.grouped = nn.Conv2d(12, 10, 3, padding=1, groups=2, bias=bias)
        self.single = nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=bias)
        self.wide = nn.Conv2d(10, 14, 3, padding=2, dilation=2, bias=bias)
        self.point = nn.Conv2d(14, 9, 1, bias=bias)
        self.head = nn.Linear(9, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.single(self.grouped(self.stem(image).relu()).relu()).relu()
        return self.head(self.point(self.wide(made).relu()).relu().mean((2, 3)))


class Mixer(nn.Module):
    """A layer over tokens, whose rows are channels, and one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.over, self.back = nn.Linear(16, 10), nn.Linear(10, 16)
        self.head = nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        channels = self.embed(image).flatten(2)
        return self.head((channels + self.back(self.over(channels).relu())).mean(2))


class Learned(nn.Module):
    """Tokens that are learned, not seen, are made wider and ask the image's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.tokens = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(1, 3, 6))
        self.widen, self.query = nn.Linear(6, 11), nn.Linear(11, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = self.embed(image).flatten(2).transpose(1, 2)
        query = self.query(self.widen(self.tokens.expand(image.shape[0], -1, -1)).relu())
        return self.head(nn.functional.scaled_dot_product_attention(query, seen, seen).mean(1))
