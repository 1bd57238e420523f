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
from edgevit.graph.running import Override, Runner
from edgevit.quant.dynamic import DEQUANTIZE_TOKENS, QUANTIZE_TOKENS, quantize_tokens
from edgevit.quant.grids import (
    ActivationGrid,
    QuantizedWeight,
    along,
    quantize_bias,
    snapped,
    snapped_tensor,
    weight_limit,
)
from edgevit.quant.insertion import Quantization, decomposed
from edgevit.quant.levels import Level, groups, level_of
from edgevit.quant.operators import LAYERS, bias_of, input_of, weight_of

# AdaRound's stretched sigmoid (Nagel et al. 2020, eq. 23): it reaches 0 and 1.
_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1
# Nearer to the middle than this, float32 cannot tell to which side a rounding leans.
_HALFWAY = 1e-5


class _FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize; the step of rounding passes gradients on (LSQ, Esser et al. 2020)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, grid: ActivationGrid) -> torch.Tensor:
        low, high = grid.quant_min - grid.zero_point, grid.quant_max - grid.zero_point
        # As the operators in the graph compute it.
        scaled = values * (1.0 / float(scale.detach()))
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


class _QuantizeTokens(torch.autograd.Function):
    """Every token on its own grid; the step of rounding passes gradients on."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return quantize_tokens(values)

    @staticmethod
    def backward(_: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


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
    """A weight whose elements each choose between the two grid points beside them (AdaRound).

    Attributes:
        weight: the float one.
        start: its integers before anything is learned.
        logits: of the share of the step above `floor`.
        floor: the lower of the two grid points, in steps.
        hard: whether roundings are decided, as they will ship; only while it is learned they are not.
    """

    weight: torch.Tensor
    start: QuantizedWeight
    logits: torch.Tensor = field(init=False)
    floor: torch.Tensor = field(init=False)
    hard: bool = True

    def __post_init__(self) -> None:
        scaled = self.weight / along(self.start.scales, self.start.axis, self.weight.dim())
        self.floor = scaled.floor()
        share = scaled - self.floor
        # Halfway, the start has chosen.
        halfway = (share - 0.5).abs() < _HALFWAY
        chosen = 0.5 + 2 * _HALFWAY * torch.where(self.start.values > self.floor, 1.0, -1.0)
        share = torch.where(halfway, chosen, share)
        self.logits = torch.logit((share - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)).requires_grad_()

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
    """A bias that may move; rounded as it will ship, which with few bits is coarse.

    Attributes:
        value: the bias.
        weight: of the same layer.
        grid: of the layer's input; None where that is float, and so the bias.
    """

    value: torch.Tensor
    weight: LearnedWeight
    grid: LearnedGrid | None

    def __post_init__(self) -> None:
        self.value = self.value.clone().requires_grad_()

    def __call__(self, *_: object) -> torch.Tensor:
        """The bias on the grid of the accumulator; rounding passes gradients on."""
        if self.grid is None:
            return self.value
        value, scales = self.value.detach(), self.weight.start.scales * self.grid.finished().scale
        return quantize_bias(value, scales).float() * scales + (self.value - value)


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
        # By the dequantize that ends the pair.
        self._first_of: dict[str, str] = {}
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
                on_grid = level_of(node, self._quantization.levels) >= Level.INPUTS
                grid = self.grids[self._group_of[input_of(node).name]] if on_grid else None
                self.biases[node.name] = LearnedBias(value, self.weights[node.name], grid)

    def grids_read_by(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """The first value of each group that some nodes read on its grid, where the grid can be learned."""
        found: dict[str, None] = {}
        for name in nodes:
            for source in self.runner.nodes[name].all_input_nodes:
                if source.name in self._first_of and self._first_of[source.name] not in self._fixed:
                    found[self._first_of[source.name]] = None
        return tuple(found)

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
        found = {
            **{f"scale.{name}": grid.log_scale for name, grid in self.grids.items()},
            **{f"rounding.{name}": weight.logits for name, weight in self.weights.items()},
            **{f"bias.{name}": bias.value for name, bias in self.biases.items()},
        }
        return {name: parameter.detach().contiguous() for name, parameter in found.items()}

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
                self._first_of[pair.name] = self._group_of[value.name]
                self.overrides[pair.name] = self.grids[self._group_of[value.name]]
        elif is_call(node, {QUANTIZE_TOKENS}):
            self.overrides[node.name] = _unchanged
        elif is_call(node, {DEQUANTIZE_TOKENS}):
            self.overrides[node.name] = _on_grids_of_tokens
        elif is_layer_with_integers(node):
            self.overrides[weight_of(node).name] = self.weights[node.name]
            bias = bias_of(node)
            if bias is not None and node.name in self.biases:
                self.overrides[bias.name] = self.biases[node.name]


def is_layer_with_integers(node: Node) -> bool:
    """Whether a node of a quantized graph multiplies by a weight that is stored as integers."""
    return is_call(node, LAYERS) and is_call(weight_of(node), {decomposed.dequantize_per_channel.default})


def _on_grids_of_tokens(values: torch.Tensor, *_: object) -> torch.Tensor:
    result: torch.Tensor = _QuantizeTokens.apply(values)  # type: ignore[no-untyped-call]
    return result


def _unchanged(value: torch.Tensor, *_: object) -> torch.Tensor:
    return value
