"""Bring in the ends of grids where rarely anything is, weighing what is cut off against what rounds finer.

A grid that covers every calibration image spends its steps on a few outliers. How much an error of one number
matters is its squared gradient: for small errors, the divergence of the predictions is half their Fisher
information's quadratic form, of which this is the diagonal. The class by whose log-likelihood gradients are
taken is drawn from the float prediction, as the Fisher information asks, so that no labels are needed.

Only what layers give is narrowed. Its outliers are rounded once and added to other numbers. In what layers
read a few tokens hold much larger numbers than all others and steer what comes later: no small error.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from edgevit.graph.information import backward
from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.grids import ActivationGrid, Scheme
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import gives_integers, groups, written
from edgevit.quant.operators import is_layer
from edgevit.quant.ranges import SchemeChoice, settled

# Shares of each half of the range that are tried.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5)
# Sixteen to each step of 8 bits.
_BINS = 4096


@dataclass
class _Histogram:
    """How much error at each number would matter.

    Attributes:
        grid: on which the numbers are to be, 8 bits at most.
        weights: (bins,) sums of squared gradients, evenly over the grid's range.
    """

    grid: ActivationGrid
    weights: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weights = torch.zeros(_BINS, dtype=torch.float64)

    def add(self, values: torch.Tensor, gradients: torch.Tensor) -> None:
        """Count some numbers; what is beyond the ends is counted there."""
        low, high = self.grid.low, self.grid.high
        bins = ((values - low) * (_BINS / (high - low))).long().clamp_(0, _BINS - 1).flatten()
        weights = gradients.square().flatten().double()
        self.weights += torch.bincount(bins, weights=weights, minlength=_BINS).to(self.weights.device)

    def narrowed(self, scheme: Scheme) -> ActivationGrid:
        """The grid of least weighted squared error, the given one among those tried."""
        low, high = self.grid.low, self.grid.high
        middles = low + (torch.arange(_BINS, dtype=torch.float64) + 0.5) * ((high - low) / _BINS)
        best, least = self.grid, self._error(self.grid, middles)
        for lower, upper in itertools.product(_SHARES, _SHARES):
            tried = ActivationGrid.of_range(low * lower, high * upper, bits=self.grid.bits, scheme=scheme)
            error = self._error(tried, middles)
            if error < least:
                best, least = tried, error
        return best

    def _error(self, grid: ActivationGrid, numbers: torch.Tensor) -> float:
        return float(((grid.quantize(numbers) - numbers).square() * self.weights).sum())


def narrow(
    program: Program, quantization: Quantization, images: torch.Tensor, *, scheme: SchemeChoice, seed: int
) -> Quantization:
    """The quantization with the grids of what layers give as narrow as costs least.

    Args:
        program: the float program.
        quantization: made for it, of grids that cover what is observed; those of 16 bits stay as they are.
        images: (n, channels, height, width) float32, on which errors are weighed.
        scheme: of the grids.
        seed: of the classes that are drawn.
    """
    layers = {
        written(node, quantization.levels).name
        for node in program.graph.nodes
        if is_layer(node) and gives_integers(written(node, quantization.levels), quantization.levels)
    }
    histograms = {
        group.values: _Histogram(quantization.activations[group.values[0]])
        for group in groups(program.graph, quantization.levels)
        if group.fixed is None
        and not layers.isdisjoint(group.values)
        and quantization.activations[group.values[0]].bits <= 8
    }
    by_value = {
        name: histogram for values, histogram in histograms.items() for name in values if name in layers
    }
    if not by_value:
        return quantization
    _collect(Runner(program), by_value, images, seed)
    found = dict(quantization.activations)
    for values, histogram in histograms.items():
        found |= dict.fromkeys(values, histogram.narrowed(settled(scheme)))
    return replace(quantization, activations=found)


def _collect(runner: Runner, histograms: Mapping[str, _Histogram], images: torch.Tensor, seed: int) -> None:
    """Fill the histograms."""

    def look(_: int, values: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        for name, (value, gradient) in values.items():
            histograms[name].add(value, gradient)

    backward(runner, list(histograms), images, look, seed=seed)
