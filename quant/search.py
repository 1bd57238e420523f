"""Q-HyViT's search (arXiv 2303.12557): scale, granularity and scheme of every layer by weighted error.

The error is ``E[dO^T diag((dL/dO)^2) dO]``, where O is the output of the bridge block that holds the layer,
else the layer's own, and L the divergence of the quantized predictions from the float ones. Three rounds go
over the layers in order, weights first, then activations, over 100 candidates between 0.01 and 1.2 of the
largest value, on 32 images. Two things differ from the published code: squared gradients are averaged over
the images, so that memory does not grow with them, and the float target is kept for each image (there every
batch overwrites it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.running import Runner, Values
from edgevit.progress import track
from edgevit.quant.blocks import Block
from edgevit.quant.grids import (
    ActivationGrid,
    QuantizedWeight,
    Scheme,
    along,
    round_weight,
    snapped_tensor,
    weight_scales,
)
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import Level, groups, level_of
from edgevit.quant.observation import Observed
from edgevit.quant.operators import channel_dim, input_of, layer_of
from edgevit.quant.precision import BitWidths
from edgevit.quant.reconstruct import importance
from edgevit.quant.simulation import Simulation


@dataclass(frozen=True)
class SearchOptions:
    """What is tried.

    Attributes:
        per_channel: granularities of weight scales: one for each output channel, one for the tensor.
        schemes: of activation grids.
        images: on which errors are measured.
        rounds: over all layers.
        candidates: for each scale, evenly from `lowest` to `highest` shares of the largest value.
    """

    per_channel: tuple[bool, ...] = (True, False)
    schemes: tuple[Scheme, ...] = ("asym", "sym")
    images: int = 32
    rounds: int = 3
    candidates: int = 100
    lowest: float = 0.01
    highest: float = 1.2

    def shares(self) -> list[float]:
        """The candidates."""
        return [float(share) for share in torch.linspace(self.lowest, self.highest, self.candidates)]


@dataclass
class _Place:
    """Where a layer's error is measured, and what is known there.

    Attributes:
        node: the layer.
        inputs: values from which the outputs are computed.
        outputs: a bridge block's, or the layer's own alone.
        given: the inputs in the quantized network.
        targets: the outputs in the float network.
    """

    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: Values = field(default_factory=dict)
    targets: Values = field(default_factory=dict)


class Search:
    """One search over a program's layers.

    Args:
        program: the float program.
        quantization: where it starts.
        observed: every value that has a grid.
        blocks: of the program; those of kind "bridge" are what Q-HyViT looks across.
        images: (n, channels, height, width) float32.
        bits: of weights and activations.
        options: what is tried.
    """

    def __init__(
        self,
        program: Program,
        quantization: Quantization,
        *,
        observed: Mapping[str, Observed],
        blocks: Sequence[Block],
        images: torch.Tensor,
        bits: BitWidths,
        options: SearchOptions,
    ) -> None:
        self.bits, self.observed, self.options, self.levels = bits, observed, options, quantization.levels
        self.images = images[: options.images]
        self.plain = Runner(program)
        self.simulation = Simulation(program, insert_quantizers(program, quantization), quantization)
        found = groups(program.graph, quantization.levels)
        self.groups = {name: group for group in found for name in group.values}
        bridges = {name: block for block in blocks if block.kind == "bridge" for name in block.nodes}
        layers = [node for node in program.graph.nodes if node.name in quantization.weights]
        self.places = [_place(node, bridges.get(node.name)) for node in layers]
        outputs = sorted({name for place in self.places for name in place.outputs})
        self.importance = importance(self.simulation, self.plain, self.images, outputs)

    def run(self) -> Quantization:
        """The best that was found."""
        steps = [place for _ in range(self.options.rounds) for place in self.places]
        with torch.no_grad():
            for place in track(steps, "searching", len(steps)):
                self._visit(place)
        return self.simulation.finished()

    def _visit(self, place: _Place) -> None:
        image = {self.plain.image: self.images}
        runner, overrides = self.simulation.runner, self.simulation.overrides
        place.given = runner.run(image, place.inputs, overrides=overrides) | image
        place.targets = self.plain.run(image, place.outputs)
        self._search_weight(place)
        if level_of(place.node, self.levels) >= Level.INPUTS:
            group = self.groups[input_of(place.node).name]
            if group.fixed is None:
                self._search_grid(place, group.values)
        place.given, place.targets = {}, {}

    def _search_weight(self, place: _Place) -> None:
        name = place.node.name
        learned = self.simulation.weights[name]
        axis = layer_of(place.node).axis
        best, least = learned.finished(), self._weight_errors(place)
        for candidate in self._weights(learned.weight, axis):
            self.simulation.set_weight(name, candidate)
            errors = self._weight_errors(place)
            better = errors < least
            if not bool(better.any()):
                continue
            least = torch.where(better, errors, least)
            best = _chosen(better, candidate, best)
        self.simulation.set_weight(name, best)

    def _weights(self, weight: torch.Tensor, axis: int) -> Iterator[QuantizedWeight]:
        bits = self.bits.weights
        for per_channel in self.options.per_channel:
            peak = weight_scales(weight, bits=bits, axis=axis, per_channel=per_channel)
            for share in self.options.shares():
                yield round_weight(weight, snapped_tensor(peak * share), bits=bits, axis=axis)

    def _search_grid(self, place: _Place, values: Sequence[str]) -> None:
        first = values[0]
        best, least = self.simulation.grids[first].finished(), float(self._errors(place).sum())
        for candidate in self._grids(values):
            self.simulation.set_grid(first, candidate)
            error = float(self._errors(place).sum())
            if error < least:
                best, least = candidate, error
        self.simulation.set_grid(first, best)

    def _grids(self, values: Sequence[str]) -> Iterator[ActivationGrid]:
        low = min(self.observed[name].low for name in values)
        high = max(self.observed[name].high for name in values)
        for scheme in self.options.schemes:
            for share in self.options.shares():
                bits = self.bits.activations or 8
                yield ActivationGrid.of_range(low * share, high * share, bits=bits, scheme=scheme)

    def _weight_errors(self, place: _Place) -> torch.Tensor:
        """The error of each channel, if each may have a scale of its own."""
        errors = self._errors(place)
        return errors if any(self.options.per_channel) else errors.sum(0, keepdim=True)

    def _errors(self, place: _Place) -> torch.Tensor:
        """The weighted error: (channels,) of a layer's own output, (1,) of a bridge block's."""
        found = self.simulation.runner.run(place.given, place.outputs, overrides=self.simulation.overrides)
        alone = place.outputs == (place.node.name,)
        total = torch.zeros(1)
        for name, target in place.targets.items():
            difference = (found[name] - target).square()
            by_image = difference.reshape(len(self.images), -1, *difference.shape[1:])
            weight = self.importance[name]
            weighted = by_image * weight.reshape(1, -1, *difference.shape[1:])
            total = total + (_by_channel(place.node, weighted.flatten(0, 1)) if alone else weighted.sum())
        return total


def _place(node: Node, bridge: Block | None) -> _Place:
    if bridge is None:
        return _Place(node, (input_of(node).name,), (node.name,))
    return _Place(node, bridge.inputs, bridge.outputs)


def _by_channel(layer: Node, values: torch.Tensor) -> torch.Tensor:
    """Sums for each channel of a layer's output."""
    dim = channel_dim(layer, values.dim()) % values.dim()
    return values.sum(dim=[i for i in range(values.dim()) if i != dim])


def _chosen(better: torch.Tensor, new: QuantizedWeight, old: QuantizedWeight) -> QuantizedWeight:
    """The channels that are better from one, the others from the other."""
    scales = torch.where(better, new.scales, old.scales)
    values = torch.where(along(better, new.axis, new.values.dim()), new.values, old.values)
    return QuantizedWeight(values, scales, new.axis, new.bits)
