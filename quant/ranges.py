"""From what was observed to grids and integers: the start of every method, and the whole of ``minmax``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.grids import ActivationGrid, QuantizedWeight, Scheme, round_weight, weight_scales
from edgevit.quant.insertion import Quantization
from edgevit.quant.levels import Group, Level, Levels, groups
from edgevit.quant.observation import Observed
from edgevit.quant.operators import is_layer, layer_of, weight_of
from edgevit.quant.precision import BitWidths
from edgevit.quant.tails import without_tails

Granularity = Literal["auto", "channel", "tensor"]
SchemeChoice = Literal["auto", "sym", "asym"]

# Shares of the weight's peak that are tried as the end of its grid.
_SHARES = tuple(1 - 0.02 * step for step in range(26))


def start(
    program: Program,
    levels: Levels,
    observed: Mapping[str, Observed],
    bits: BitWidths,
    *,
    granularity: Granularity = "auto",
    scheme: SchemeChoice = "auto",
) -> Quantization:
    """Grids that cover everything observed, and weights rounded to the nearest.

    Args:
        program: the float program.
        levels: of its operations.
        observed: every value that `edgevit.quant.levels.groups` lists.
        bits: of weights and activations.
        granularity: one weight scale for each output "channel", as "auto" is, or one for the "tensor".
        scheme: of activations; "auto" is "asym", whose grid is never coarser.
    """
    activations: dict[str, ActivationGrid] = {}
    nodes = {node.name: node for node in program.graph.nodes}
    image = str(program.exported.graph_signature.user_inputs[0])
    for group in groups(program.graph, levels):
        found = [observed[name] for name in group.values]
        if group.values[0] == image:
            found.append(_beyond(found[0], bits))
        values = [nodes[name] for name in group.values]
        grid = _dictated(group, bits) or cover(found, bits, scheme, values=values)
        activations |= dict.fromkeys(group.values, grid)
    constants = Runner(program).constants
    weights = {
        node.name: fit_weight(
            constants[weight_of(node).name], bits.weights, layer_of(node).axis, granularity=granularity
        )
        for node in program.graph.nodes
        if is_layer(node) and levels.get(node.name, Level.FLOAT) >= Level.WEIGHTS
    }
    return Quantization(levels, activations, weights)


def cover(
    observed: Iterable[Observed], bits: BitWidths, scheme: SchemeChoice, *, values: Sequence[Node] = ()
) -> ActivationGrid:
    """The finest grid that holds what was observed of values that share it, as far as readers care."""
    found, width = list(observed), bits.activations or 8
    low, high = min(value.low for value in found), max(value.high for value in found)
    low, high = without_tails(values, low, high, bits=width)
    return ActivationGrid.of_range(low, high, bits=width, scheme=settled(scheme))


def settled(scheme: SchemeChoice) -> Scheme:
    """A choice for every grid: "auto" is "asym", whose grid is never coarser."""
    return "asym" if scheme == "auto" else scheme


def _dictated(group: Group, bits: BitWidths) -> ActivationGrid | None:
    """The grid that a kernel of so many bits dictates."""
    return group.fixed.widened() if group.fixed and bits.activations == 16 else group.fixed


def _beyond(image: Observed, bits: BitWidths) -> Observed:
    """A range one step wider than the image's.

    Pixels are multiples of one step themselves. On a grid of that very step they would all lie halfway
    between two points (0 is on the grid and, with a mean of one half, is no pixel), each rounded as far as
    can be; on the next coarser one their errors are spread evenly.
    """
    step = (image.high - image.low) / 2 ** (bits.activations or 8)
    return replace(image, high=image.high + step)


def fit_weight(weight: torch.Tensor, bits: int, axis: int, *, granularity: Granularity) -> QuantizedWeight:
    """Round a weight to the nearest, with the scales of least squared error.

    At 8 bits that is the scale that cuts nothing off; with fewer, cutting the largest few off pays.
    """
    peak = weight_scales(weight, bits=bits, axis=axis, per_channel=granularity != "tensor")
    if bits >= 8:
        return round_weight(weight, peak, bits=bits, axis=axis)
    best = round_weight(weight, peak, bits=bits, axis=axis)
    least = _errors(weight, best, granularity)
    for share in _SHARES[1:]:
        scales = (peak * share).half().float().clamp_min(2.0**-24)
        candidate = round_weight(weight, scales, bits=bits, axis=axis)
        errors = _errors(weight, candidate, granularity)
        better = errors < least
        least = torch.where(better, errors, least)
        chosen = torch.where(better, scales, best.scales)
        best = round_weight(weight, chosen, bits=bits, axis=axis)
    return best


def _errors(weight: torch.Tensor, rounded: QuantizedWeight, granularity: Granularity) -> torch.Tensor:
    """Squared error of each channel, or the tensor's in place of each."""
    others = [i for i in range(weight.dim()) if i != rounded.axis]
    errors = (weight - rounded.dequantize()).square().sum(dim=others)
    return errors if granularity != "tensor" else errors.sum().expand_as(errors)
