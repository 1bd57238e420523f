"""Layers of 8-bit activations given 16: between 8 bits and float, with integers all the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.grids import ActivationGrid, QuantizedWeight
from edgevit.quant.insertion import Quantization, grid_read
from edgevit.quant.levels import Level, groups, level_of, written
from edgevit.quant.observation import Observed
from edgevit.quant.operators import input_of, is_layer, layer_of, weight_of
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import Granularity, cover, fit_weight

_WIDE = BitWidths(weights=8, activations=16)


@dataclass(frozen=True)
class Widening:
    """What is needed to bring values from 8 bits to 16.

    Attributes:
        program: the float program.
        observed: every value that has a grid.
        granularity: of weights that had fewer than 8 bits, and are rounded anew.
    """

    program: Program
    observed: Mapping[str, Observed]
    granularity: Granularity

    def widen(self, quantization: Quantization, layers: Collection[str]) -> Quantization:
        """Layers with 16-bit activations and 8-bit weights.

        What a layer reads, and at level INTEGER what it gives, is brought to 16 bits, together with all that
        shares a grid with it; but no grid that a kernel dictates.
        """
        levels = quantization.levels
        nodes = [
            node
            for node in self.program.graph.nodes
            if node.name in layers and level_of(node, levels) >= Level.INPUTS
        ]
        ends = {input_of(node).name for node in nodes}
        ends |= {written(node, levels).name for node in nodes if level_of(node, levels) == Level.INTEGER}
        wide = self._with_values(quantization, ends)
        return replace(wide, weights=self._weights(quantization, [node.name for node in nodes]))

    def widen_all(self, quantization: Quantization) -> Quantization:
        """Everything on 16 bits that can be, as if it had been asked for from the start."""
        wide = self.widen(quantization, quantization.weights)
        return self._with_values(wide, wide.activations)

    def _with_values(self, quantization: Quantization, values: Collection[str]) -> Quantization:
        """Values on 16 bits, with all that share their grids."""
        wide: dict[str, ActivationGrid] = {}
        for group in groups(self.program.graph, quantization.levels):
            if group.fixed is None and not set(values).isdisjoint(group.values):
                found = [self.observed[name] for name in group.values]
                wide |= dict.fromkeys(group.values, cover(found, _WIDE, "sym"))
        before = {name: quantization.activations[name] for name in wide}
        narrow = {name: grid for name, grid in before.items() if grid.bits != _WIDE.activations}
        return replace(
            quantization,
            activations={**quantization.activations, **wide},
            narrow={**quantization.narrow, **narrow},
        )

    def _weights(self, quantization: Quantization, layers: Collection[str]) -> dict[str, QuantizedWeight]:
        """All weights, those of some layers with 8 bits."""
        constants = Runner(self.program).constants
        weights = dict(quantization.weights)
        for node in self.program.graph.nodes:
            if node.name in layers and weights[node.name].bits < _WIDE.weights:
                weight = constants[weight_of(node).name]
                weights[node.name] = fit_weight(
                    weight, _WIDE.weights, layer_of(node).axis, granularity=self.granularity
                )
        return weights


def widened_layers(program: Program, quantization: Quantization) -> tuple[str, ...]:
    """The layers that read 16 bits, in graph order."""
    return tuple(
        node.name
        for node in program.graph.nodes
        if is_layer(node)
        and level_of(node, quantization.levels) >= Level.INPUTS
        and grid_read(input_of(node), node, quantization).bits == _WIDE.activations
    )
