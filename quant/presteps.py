"""Exact changes to the float program before it is quantized, where they are measured or free to help.

Inputs of layers are smoothed (SmoothQuant, Xiao et al. 2023), outputs equalized: the program
computes the same, and one scale for a tensor costs less. A factor that a layer norm can absorb is free;
any other is one multiplication more, and stands only where quantizing the layer alone does damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call
from edgevit.graph.running import Runner, spread
from edgevit.quant.equalize import can_equalize, equalize_outputs
from edgevit.quant.levels import (
    Level,
    Levels,
    computes_integers,
    gives_integers,
    level_of,
    without_idle_moves,
)
from edgevit.quant.migration import Reader, Reading, migrate
from edgevit.quant.observation import Observed, observe
from edgevit.quant.operators import channel_dim, input_of, is_layer, weight_of
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import SchemeChoice
from edgevit.quant.smooth import Smoothing, smooth

aten = torch.ops.aten

# KL in nats that a layer does by itself: what a multiplication is worth. Range that is moved from an input
# to weights loses nothing; an output channel with a range of its own clips what was not seen of it.
_DAMAGE = 1e-4
_DAMAGE_OF_OUTPUT = 3e-4
# A layer's output is equalized where that makes its noise at least so many times smaller.
_WORTH_EQUALIZING = 4.0
# Images on which factors are tried; ranges are those of the others.
_TRIED_IMAGES = 32


@dataclass(frozen=True)
class Prepared:
    """A program made ready.

    Attributes:
        program: computes what the one given does.
        levels: for it.
        smoothed: layers whose input was smoothed.
        products: values that they read then, where no layer norm gives them: to be quantized with headroom.
        equalized: layers whose output was equalized.
    """

    program: Program
    levels: Levels
    smoothed: tuple[str, ...]
    products: tuple[str, ...]
    equalized: tuple[str, ...]


def prestep(
    program: Program,
    levels: Levels,
    *,
    observed: Mapping[str, Observed],
    damage: Mapping[str, float],
    images: torch.Tensor,
    bits: BitWidths,
    scheme: SchemeChoice,
) -> Prepared:
    """Smooth and equalize.

    Args:
        program: a float program.
        levels: of its operations.
        observed: every value that has a grid.
        damage: of each layer's quantization alone, KL in nats.
        images: (n, channels, height, width), all that there are: on some the factors are tried that the
            others suggest.
        bits: of weights and activations.
        scheme: of activation grids.
    """
    smoothings = _smoothings(
        program, _readers(program, levels, damage), observed=observed, images=images, bits=bits, scheme=scheme
    )
    worth = [
        node.name
        for node in program.graph.nodes
        if can_equalize(node)
        and gives_integers(node, levels)
        and not any(computes_integers(user, levels) for user in node.users)
        and damage.get(node.name, 0.0) >= _DAMAGE_OF_OUTPUT
        and _gain(observed[node.name].peaks) >= _WORTH_EQUALIZING
    ]
    if not smoothings and not worth:
        return Prepared(program, levels, (), (), ())
    program, smooth_values = smooth(program, smoothings)
    if worth:
        program = equalize_outputs(program, worth, {name: observed[name].peaks for name in worth})
    smoothed = tuple(layer for one in smoothings.values() for layer in one.layers)
    levels = without_idle_moves(program.graph, levels)
    products = tuple(name for source, name in smooth_values.items() if name != source)
    return Prepared(program, levels, smoothed, products, tuple(worth))


def _readers(program: Program, levels: Levels, damage: Mapping[str, float]) -> dict[Node, list[Node]]:
    """The activations that can be smoothed, where it is free or could be worth its cost, and their layers."""
    readers: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        if is_layer(node) and level_of(node, levels) >= Level.INPUTS:
            readers.setdefault(input_of(node), []).append(node)
    return {
        source: layers
        for source, layers in readers.items()
        if source.op == "call_function"
        and not gives_integers(source, levels)
        and _channels_are_known(source, layers)
        and (_is_free(source, layers) or max(damage.get(layer.name, 0.0) for layer in layers) >= _DAMAGE)
    }


def _channels_are_known(source: Node, layers: list[Node]) -> bool:
    """Whether all layers read the value's channels where they are taken to be."""
    rank = source.meta["val"].dim()
    wanted = {-1 if layer.target is aten.linear.default else 1 for layer in layers}
    return wanted == {channel_dim(source, rank)}


def _smoothings(
    program: Program,
    readers: Mapping[Node, Sequence[Node]],
    *,
    observed: Mapping[str, Observed],
    images: torch.Tensor,
    bits: BitWidths,
    scheme: SchemeChoice,
) -> dict[str, Smoothing]:
    """The factors that pay, each found as the images reach its activation."""
    runner = Runner(program)
    by_name = {source.name: (source, layers) for source, layers in readers.items()}
    tried = spread(torch.arange(len(images)), min(_TRIED_IMAGES, len(images) // 2))
    others = torch.ones(len(images), dtype=torch.bool).index_fill(0, tried, False)
    elsewhere = observe(program, images[others], list(by_name))
    found: dict[str, Smoothing] = {}

    def look(name: str, values: torch.Tensor) -> None:
        source, layers = by_name[name]
        read = [Reader(layer, runner.constants[weight_of(layer).name]) for layer in layers]
        dim = channel_dim(source, values.dim()) % values.dim()
        reading = Reading(elsewhere[name], observed[name].peaks, values, dim, read)
        scale = migrate(reading, bits, scheme, free=_is_free(source, layers))
        if scale is not None:
            found[name] = Smoothing(name, scale, tuple(layer.name for layer in layers))

    with torch.no_grad():
        runner.observe(images[tried], list(by_name), look)
    return found


def _is_free(source: Node, layers: Sequence[Node]) -> bool:
    """Whether a layer norm can take up the factor."""
    return is_call(source, {aten.layer_norm.default}) and set(source.users) == set(layers)


def _gain(peaks: torch.Tensor) -> float:
    """How many times smaller the mean squared rounding error is with one range for each channel."""
    return float(peaks.max().square() / peaks.square().mean().clamp_min(1e-30))
