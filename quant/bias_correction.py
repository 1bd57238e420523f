"""Biases take back what quantization adds to, or takes from, a layer's mean output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.running import Override, Runner, batches
from edgevit.quant.grids import ActivationGrid
from edgevit.quant.insertion import Quantization, grid_read
from edgevit.quant.levels import Level, level_of
from edgevit.quant.operators import bias_of, channel_dim, input_of, is_layer, layer_of


@dataclass
class _Shift:
    """The mean change of a layer's output, for each of its channels.

    Attributes:
        layer: the node.
        bias: the node of its bias.
        weight: as it is quantized, float32.
        grid: of what the layer reads; None where that stays float.
        total: (channels,) of all changes.
        count: how many.
    """

    layer: Node
    bias: Node
    weight: torch.Tensor
    grid: ActivationGrid | None
    total: torch.Tensor | float = 0.0
    count: int = 0

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the float layer gives; on the way the quantized one is compared with it."""
        target: Any = self.layer.target
        exact: torch.Tensor = target(*args, **kwargs)
        given, places = list(args), layer_of(self.layer)
        given[places.weight] = self.weight
        if self.grid is not None:
            given[places.input] = self.grid.quantize(given[places.input])
        change = exact - target(*given, **kwargs)
        change = change.movedim(channel_dim(self.layer, exact.dim()), 0).flatten(1)
        self.total += change.double().sum(1)
        self.count += change.shape[1]
        return exact

    @property
    def mean(self) -> torch.Tensor:
        """(channels,), float32."""
        return (torch.as_tensor(self.total) / self.count).float()


def correct_biases(program: Program, quantization: Quantization, images: torch.Tensor) -> Quantization:
    """The quantization with biases under which every layer, given what it is in float, keeps its mean.

    Rounded weights and inputs that are cut off move the mean of an output; all that follows sees it as if it
    were in the image (Nagel et al. 2019, arXiv 1906.04721, section 4.2; images in place of a distribution).

    Args:
        program: the float program.
        quantization: made for it.
        images: (n, channels, height, width) float32.
    """
    runner = Runner(program)
    shifts = {
        node.name: _Shift(
            node, bias, quantization.weights[node.name].dequantize(), _grid_of(node, quantization)
        )
        for node in program.graph.nodes
        if is_layer(node) and node.name in quantization.weights and (bias := bias_of(node)) is not None
    }
    overrides: Mapping[str, Override] = shifts
    with torch.no_grad():
        for part in batches(images):
            runner.run({runner.image: part}, runner.results, overrides=overrides)
    found = {name: runner.constants[shift.bias.name] + shift.mean for name, shift in shifts.items()}
    return replace(quantization, biases=found)


def _grid_of(layer: Node, quantization: Quantization) -> ActivationGrid | None:
    if level_of(layer, quantization.levels) < Level.INPUTS:
        return None
    return grid_read(input_of(layer), layer, quantization)
