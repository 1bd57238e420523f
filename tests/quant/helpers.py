"""Small prepared Programs, images for them, and the quantization that covers what those images show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.running import Runner
from edgevit.quant.grids import QuantizedWeight
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import Levels, groups
from edgevit.quant.observation import Observed, observe
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from edgevit.quant.ranges import start
from edgevit.quant.silu import spell_out_silu
from edgevit.quant.simulation import Simulation
from tests.rewrites.helpers import program_of

SHAPE = (3, 8, 8)

Model = nn.Module | Callable[[torch.Tensor], torch.Tensor]


def images(count: int = 12, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def seeded(module: Callable[[], nn.Module]) -> nn.Module:
    """A module of the same weights every time."""
    torch.manual_seed(0)
    return module()


def prepared(model: Model) -> Program:
    """The model's program as it is quantized; it takes images of `SHAPE`."""
    return prepare_for_export(program_of(model, SHAPE))


@dataclass(frozen=True)
class Started:
    """A quantization that covers what `images()` show, and what it was made of."""

    program: Program
    levels: Levels
    observed: Mapping[str, Observed]
    quantization: Quantization

    @property
    def quantized(self) -> Program:
        return insert_quantizers(self.program, self.quantization)

    @property
    def simulation(self) -> Simulation:
        return Simulation(self.program, self.quantized, self.quantization)


def started(
    model: Program | Model, placement: str = "layers", precision: str = "w8a8", **options: Any
) -> Started:
    program = model if isinstance(model, Program) else prepared(model)
    bits = bit_widths(precision)
    program, levels = spell_out_silu(program, place(program.graph, placement, bits))
    names = [name for group in groups(program.graph, levels) for name in group.values]
    observed = observe(program, images(), names)
    return Started(program, levels, observed, start(program, levels, observed, bits, **options))


def named(program: Program, operator: str) -> Node:
    """The first call of an ATen operator, by its short name."""
    return all_named(program, operator)[0]


def all_named(program: Program, operator: str) -> list[Node]:
    return [node for node in program.graph.nodes if str(node.target).split(".")[:2] == ["aten", operator]]


def grouped(program: Program, levels: Levels) -> set[frozenset[str]]:
    """The values of every group."""
    return {frozenset(group.values) for group in groups(program.graph, levels)}


def values(program: Program, names: Iterable[str], batch: torch.Tensor | None = None) -> dict[str, Any]:
    runner = Runner(program)
    batch = images() if batch is None else batch
    with torch.no_grad():
        return runner.run({runner.image: batch}, list(names))


def logits(program: Program, batch: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        found = program.module(images() if batch is None else batch)
    return found[0] if isinstance(found, tuple | list) else found


def same_weight(left: QuantizedWeight, right: QuantizedWeight) -> bool:
    return (
        torch.equal(left.values, right.values)
        and torch.equal(left.scales, right.scales)
        and (left.axis, left.bits) == (right.axis, right.bits)
    )


class Net(nn.Module):
    """Convolutions with a residual sum, and a classifier."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = activation()
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.act(self.stem(image))
        return self.head((made + self.mix(made)).mean((2, 3)))


class Tokens(nn.Module):
    """Patches, one self-attention over them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        attended = (query @ key.transpose(1, 2) * 0.35).softmax(dim=-1) @ value
        return self.head((tokens + self.out(attended)).mean(1))


class Folded(nn.Module):
    """Windows in the batch, as Swin has them: (batch x 4 windows, tokens, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.embed(image).permute(0, 2, 3, 1)
        windows = made.reshape(-1, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        windows = windows + self.mix(windows).relu()
        return self.head(windows.reshape(-1, 16, 8).mean(1))
