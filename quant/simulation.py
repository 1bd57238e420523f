"""A quantized Program with its scales, roundings and biases open for learning.

What is simulated is what ships: the same graph, the same clamps, scales that are float16 numbers; only
rounding is made differentiable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call
from edgevit.quant.grids import (
    ActivationGrid,
    QuantizedWeight,
    along,
    snapped,
    snapped_tensor,
    weight_limit,
)
from edgevit.quant.insertion import Quantization, decomposed
from edgevit.quant.levels import groups
from edgevit.quant.operators import LAYERS, bias_of, weight_of
from edgevit.quant.running import Override, Runner

# AdaRound's stretched sigmoid (Nagel et al. 2020, eq. 23): it reaches 0 and 1.
_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1


class _FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize; the step of rounding passes gradients on (LSQ, Esser et al. 2020)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, grid: ActivationGrid) -> torch.Tensor:
        low, high = grid.quant_min - grid.zero_point, grid.quant_max - grid.zero_point
        scaled = values / scale
        stored = torch.round(scaled).clamp_(low, high)
        inside = (scaled >= low) & (scaled <= high)
        ctx.save_for_backward(scaled, stored, inside)
        return stored * scale

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        scaled, stored, inside = ctx.saved_tensors
        to_scale = (grad * (stored - scaled * inside)).sum() if ctx.needs_input_grad[1] else None
        return grad * inside, to_scale, None


@dataclass
class LearnedGrid:
    """The grid of a group of values, its scale a parameter in the logarithm."""

    grid: ActivationGrid
    log_scale: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.log_scale = torch.tensor(self.grid.scale).log().requires_grad_()

    def __call__(self, values: torch.Tensor, *_: object) -> torch.Tensor:
        """The values on the grid, with gradients to the scale."""
        scale = self.log_scale.exp()
        # The grid that ships has a float16 scale; its gradient is that of the number next to it.
        scale = scale + (snapped_tensor(scale.detach()) - scale.detach())
        result: torch.Tensor = _FakeQuantize.apply(values, scale, self.grid)  # type: ignore[no-untyped-call]
        return result

    def finished(self) -> ActivationGrid:
        """The grid that was learned."""
        return replace(self.grid, scale=snapped(float(self.log_scale.detach().exp())))


@dataclass
class LearnedWeight:
    """A weight whose elements each choose between the two grid points beside them (AdaRound)."""

    weight: torch.Tensor
    start: QuantizedWeight
    logits: torch.Tensor = field(init=False)
    floor: torch.Tensor = field(init=False)
    hard: bool = False

    def __post_init__(self) -> None:
        scaled = self.weight / along(self.start.scales, self.start.axis, self.weight.dim())
        self.floor = scaled.floor()
        share = ((scaled - self.floor) - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)
        self.logits = torch.logit(share).requires_grad_()

    def up(self) -> torch.Tensor:
        """How far each element goes up from its floor, 0 to 1."""
        stretched = torch.sigmoid(self.logits) * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW
        up = stretched.clamp(0, 1)
        return (up >= 0.5).float() if self.hard else up

    def __call__(self, *_: object) -> torch.Tensor:
        """The weight on its way to the grid."""
        limit = weight_limit(self.start.bits)
        stored = (self.floor + self.up()).clamp(-limit, limit)
        return stored * along(self.start.scales, self.start.axis, self.weight.dim())

    def undecided(self, sharpness: float) -> torch.Tensor:
        """The mean distance of the roundings from a decision, 0 to 1 (AdaRound's regulariser)."""
        return (1 - (2 * self.up() - 1).abs().pow(sharpness)).mean()

    def finished(self) -> QuantizedWeight:
        """The weight with every rounding decided."""
        limit = weight_limit(self.start.bits)
        with torch.no_grad():
            stored = (self.floor + (self.up() >= 0.5)).clamp(-limit, limit)
        return replace(self.start, values=stored.to(torch.int8))


@dataclass
class LearnedBias:
    """A bias that may move."""

    value: torch.Tensor

    def __post_init__(self) -> None:
        self.value = self.value.clone().requires_grad_()

    def __call__(self, *_: object) -> torch.Tensor:
        """The bias."""
        return self.value


class Simulation:
    """A quantized program, every quantizer of it replaced by one that learns.

    Args:
        program: the float program.
        quantized: what `insert_quantizers` made of it.
        quantization: with which it was made.
    """

    def __init__(self, program: Program, quantized: Program, quantization: Quantization) -> None:
        self.runner = Runner(quantized)
        self._quantization = quantization
        found = groups(program.graph, quantization.levels)
        self._group_of = {name: group.values[0] for group in found for name in group.values}
        self._fixed = {group.values[0] for group in found if group.fixed is not None}
        self.grids = {
            group.values[0]: LearnedGrid(quantization.activations[group.values[0]]) for group in found
        }
        self.weights: dict[str, LearnedWeight] = {}
        self.biases: dict[str, LearnedBias] = {}
        self._open_layers(program)
        self.overrides: dict[str, Override] = {}
        for node in self.runner.graph.nodes:
            self._override(node)

    def _open_layers(self, program: Program) -> None:
        constants = Runner(program).constants
        for node in program.graph.nodes:
            if node.name not in self._quantization.weights:
                continue
            weight = constants[weight_of(node).name]
            self.weights[node.name] = LearnedWeight(weight, self._quantization.weights[node.name])
            bias = bias_of(node)
            if bias is not None:
                value = self._quantization.biases.get(node.name, constants[bias.name])
                self.biases[node.name] = LearnedBias(value)

    def learnable(
        self, nodes: Iterable[str]
    ) -> tuple[tuple[LearnedGrid, ...], tuple[LearnedWeight, ...], tuple[LearnedBias, ...]]:
        """What can be learned at some nodes: grids of their values, weights and biases of their layers."""
        names = list(nodes)
        firsts = dict.fromkeys(self._group_of[name] for name in names if name in self._group_of)
        return (
            tuple(self.grids[first] for first in firsts if first not in self._fixed),
            tuple(self.weights[name] for name in names if name in self.weights),
            tuple(self.biases[name] for name in names if name in self.biases),
        )

    def set_grid(self, first: str, grid: ActivationGrid) -> None:
        """Another grid for the group whose first value is named."""
        self.grids[first].grid = grid
        with torch.no_grad():
            self.grids[first].log_scale.fill_(grid.scale).log_()

    def set_weight(self, layer: str, weight: QuantizedWeight) -> None:
        """Another rounding of a layer's weight, as decided."""
        learned = self.weights[layer]
        learned.start, learned.floor = weight, weight.values.float()
        with torch.no_grad():
            # So that the rounded weight is the floor itself.
            learned.logits.fill_(-10.0)

    def state(self) -> dict[str, torch.Tensor]:
        """Every parameter by a name of its own."""
        return {
            **{f"scale.{name}": grid.log_scale.detach() for name, grid in self.grids.items()},
            **{f"rounding.{name}": weight.logits.detach() for name, weight in self.weights.items()},
            **{f"bias.{name}": bias.value.detach() for name, bias in self.biases.items()},
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take parameters that `state` gave."""
        with torch.no_grad():
            for name, grid in self.grids.items():
                grid.log_scale.copy_(state[f"scale.{name}"])
            for name, weight in self.weights.items():
                weight.logits.copy_(state[f"rounding.{name}"])
            for name, bias in self.biases.items():
                bias.value.copy_(state[f"bias.{name}"])

    def finished(self) -> Quantization:
        """Everything as it was learned."""
        return replace(
            self._quantization,
            activations={name: self.grids[first].finished() for name, first in self._group_of.items()},
            weights={name: weight.finished() for name, weight in self.weights.items()},
            biases={name: bias.value.detach() for name, bias in self.biases.items()},
        )

    def _override(self, node: Node) -> None:
        if is_call(node, {decomposed.quantize_per_tensor.default}):
            value, pair = node.args[0], next(iter(node.users))
            if isinstance(value, Node):
                self.overrides[node.name] = _unchanged
                self.overrides[pair.name] = self.grids[self._group_of[value.name]]
        elif is_layer_with_integers(node):
            self.overrides[weight_of(node).name] = self.weights[node.name]
            bias = bias_of(node)
            if bias is not None and node.name in self.biases:
                self.overrides[bias.name] = self.biases[node.name]


def is_layer_with_integers(node: Node) -> bool:
    """Whether a node of a quantized graph multiplies by a weight that is stored as integers."""
    return is_call(node, LAYERS) and is_call(weight_of(node), {decomposed.dequantize_per_channel.default})


def _unchanged(value: torch.Tensor, *_: object) -> torch.Tensor:
    return value
