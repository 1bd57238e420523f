"""Small quantized Programs, their grids from the smallest and largest values of a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.running import Runner
from edgevit.quant.grids import ActivationGrid, round_weight, weight_scales
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import Level, groups, with_moves
from edgevit.quant.observation import observe
from edgevit.quant.operators import can_be_integer, is_layer, reads_tokens, weight_of
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from edgevit.quant.quantizing import quantize
from edgevit.quant.ranges import start
from edgevit.quant.silu import spell_out_silu
from edgevit.quant.widening import Widening
from tests.rewrites.helpers import program_of
from tests.zoo import example


def quantized(
    model: Program | nn.Module | Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...] = (),
    *,
    level: Level = Level.INPUTS,
    everything: bool = False,
    weight_bits: int = 8,
    bits: int = 8,
    dynamic_batch: bool = True,
) -> Program:
    """The model with its layers at a level, or every operator that has an integer kernel.

    Args:
        model: a Program, or a module or function that takes images of `shape` (without the batch).
        shape: of one image; not needed for a Program.
        level: of the layers.
        everything: whether all else that can be integer is INTEGER too.
        weight_bits: of weights.
        bits: of activations.
        dynamic_batch: whether the batch stays open.
    """
    if not isinstance(model, Program):
        torch.manual_seed(0)
        model = program_of(model, shape, dynamic_batch=dynamic_batch)
    program = prepare_for_export(model)
    levels = {node.name: level for node in program.graph.nodes if is_layer(node)}
    if level == Level.DYNAMIC:
        levels |= {
            node.name: Level.WEIGHTS
            for node in program.graph.nodes
            if is_layer(node) and not reads_tokens(node)
        }
    if everything:
        levels |= {n.name: Level.INTEGER for n in program.graph.nodes if can_be_integer(n)}
        levels = with_moves(program.graph, levels)
    program, levels = spell_out_silu(program, levels)
    runner = Runner(program)
    weights = {}
    for node in program.graph.nodes:
        if is_layer(node) and levels[node.name] >= Level.WEIGHTS:
            weight = runner.constants[weight_of(node).name]
            scales = weight_scales(weight, bits=weight_bits, axis=0)
            weights[node.name] = round_weight(weight, scales, bits=weight_bits, axis=0)
    return insert_quantizers(program, Quantization(levels, _grids(program, levels, bits), weights))


def _grids(program: Program, levels: dict[str, Level], bits: int) -> dict[str, ActivationGrid]:
    found = groups(program.graph, levels)
    ends: dict[str, tuple[float, float]] = {}

    def look(name: str, value: torch.Tensor) -> None:
        ends[name] = float(value.min()), float(value.max())

    images = example(tuple(int(size) for size in program.input_shape[1:]), program.batch or 4, seed=1)
    names = [name for group in found for name in group.values]
    with torch.no_grad():
        Runner(program).observe(images, names, look)
    grids = {}
    for group in found:
        low, high = (pick(ends[name][at] for name in group.values) for at, pick in enumerate((min, max)))
        fixed = group.fixed.widened() if group.fixed and bits == 16 else group.fixed
        grid = fixed or ActivationGrid.of_range(low, high, bits=bits)
        grids.update(dict.fromkeys(group.values, grid))
    return grids


class Mlp(nn.Module):
    """Channels as tokens through two layers, the second without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 24), nn.Linear(24, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x.flatten(2))))


class Convs(nn.Module):
    """A stem and a depthwise convolution, a shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.depthwise(x)).mean((2, 3)))


def constants(program: Program) -> dict[str, np.ndarray]:
    """Every stored integer tensor and its scales, by their names in the model."""
    state = {**program.exported.state_dict, **program.exported.constants}
    return {
        name: value.numpy() for name, value in state.items() if name.endswith(("_int8", "_int32", "_scale"))
    }


def mixed(
    model: Program | nn.Module, shape: tuple[int, ...] = (), *, placement: str, layers: Sequence[str]
) -> Program:
    """The model on 8 bits with some layers on 16, by the names of their operators.

    Args:
        model: a Program, or a module that takes images of `shape` (without the batch).
        shape: of one image; not needed for a Program.
        placement: of integers.
        layers: to be widened.
    """
    if not isinstance(model, Program):
        torch.manual_seed(0)
        model = program_of(model, shape)
    program, bits = prepare_for_export(model), bit_widths("w8a8")
    levels = place(program.graph, placement, bits)
    images = example(tuple(int(size) for size in program.input_shape[1:]), 16, seed=1)
    names = [name for group in groups(program.graph, levels) for name in group.values]
    observed = observe(program, images, names)
    widening = Widening(program, observed, "auto")
    return insert_quantizers(program, widening.widen(start(program, levels, observed, bits), layers))


class ClassToken(nn.Module):
    """Tokens of an image behind one that every image of the batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.randn(1, 1, 64)), nn.Linear(64, 4)
        self.patches = nn.Conv2d(3, 64, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.layer(torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1))


def with_class_token() -> Program:
    """A `ClassToken` in integers: its token is brought to them behind the copies for the batch."""
    torch.manual_seed(0)
    program = prepare_for_export(program_of(ClassToken(), (3, 8, 8)))
    levels = place(program.graph, "full", bit_widths("w8a8"), ())
    del levels["expand"]
    images = example((3, 8, 8), 8).numpy()
    return quantize(program, images, levels=levels, method="minmax", spare=False).program
