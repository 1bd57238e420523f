"""Exact changes to the float program before it is quantized, where they are measured or free to help.

Inputs of linear layers are smoothed (SmoothQuant, Xiao et al. 2023), outputs equalized: the program
computes the same, and one scale for a tensor costs less. A factor that a layer norm can absorb is free;
any other is one multiplication more, and stands only where quantizing the layer alone does damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call
from edgevit.quant.equalize import can_equalize, equalize_outputs
from edgevit.quant.levels import (
    Level,
    Levels,
    computes_integers,
    gives_integers,
    level_of,
    without_idle_moves,
)
from edgevit.quant.observation import Observed
from edgevit.quant.operators import channel_dim, input_of, is_layer, weight_of
from edgevit.quant.running import Runner
from edgevit.quant.smooth import Smoothing, smooth

aten = torch.ops.aten

# KL in nats that a layer does by itself: what a multiplication is worth.
_DAMAGE = 3e-4
# A layer's output is equalized where that makes its noise at least so many times smaller.
_WORTH_EQUALIZING = 4.0
_SMALLEST_PEAK = 1e-4


@dataclass(frozen=True)
class Prepared:
    """A program made ready.

    Attributes:
        program: computes what the one given does.
        levels: for it.
        smoothed: layers whose input was smoothed.
        equalized: layers whose output was equalized.
    """

    program: Program
    levels: Levels
    smoothed: tuple[str, ...]
    equalized: tuple[str, ...]


def prestep(
    program: Program, levels: Levels, observed: Mapping[str, Observed], damage: Mapping[str, float]
) -> Prepared:
    """Smooth and equalize.

    Args:
        program: a float program.
        levels: of its operations.
        observed: every value that has a grid.
        damage: of each layer's quantization alone, KL in nats.
    """
    smoothings = _smoothings(program, levels, observed, damage)
    worth = [
        node.name
        for node in program.graph.nodes
        if can_equalize(node)
        and gives_integers(node, levels)
        and not any(computes_integers(user, levels) for user in node.users)
        and damage.get(node.name, 0.0) >= _DAMAGE
        and _gain(observed[node.name].peaks) >= _WORTH_EQUALIZING
    ]
    if not smoothings and not worth:
        return Prepared(program, levels, (), ())
    program, _ = smooth(program, smoothings)
    if worth:
        program = equalize_outputs(program, worth, {name: observed[name].peaks for name in worth})
    smoothed = tuple(layer for one in smoothings.values() for layer in one.layers)
    return Prepared(program, without_idle_moves(program.graph, levels), smoothed, tuple(worth))


def _smoothings(
    program: Program, levels: Levels, observed: Mapping[str, Observed], damage: Mapping[str, float]
) -> dict[str, Smoothing]:
    constants = Runner(program).constants
    readers: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        if is_layer(node) and node.target is aten.linear.default and level_of(node, levels) >= Level.INPUTS:
            readers.setdefault(input_of(node), []).append(node)
    found: dict[str, Smoothing] = {}
    for source, layers in readers.items():
        free = is_call(source, {aten.layer_norm.default}) and set(source.users) == set(layers)
        harmful = max(damage.get(layer.name, 0.0) for layer in layers) >= _DAMAGE
        last = channel_dim(source, source.meta["val"].dim()) == -1
        if gives_integers(source, levels) or not last or not (free or harmful):
            continue
        weights = [constants[weight_of(layer).name] for layer in layers]
        scale = _smooth_scale(observed[source.name].peaks, weights)
        found[source.name] = Smoothing(source.name, scale, tuple(layer.name for layer in layers))
    return found


def _smooth_scale(peaks: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """SmoothQuant's factor (eq. 4, alpha one half): the range is shared evenly by activation and weight."""
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    scale = (columns.clamp_min(_SMALLEST_PEAK) / peaks.clamp_min(_SMALLEST_PEAK)).sqrt()
    return scale / scale.max()


def _gain(peaks: torch.Tensor) -> float:
    """How many times smaller the mean squared rounding error is with one range for each channel."""
    return float(peaks.max().square() / peaks.square().mean().clamp_min(1e-30))
