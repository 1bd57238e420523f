"""Submodels as they ship: quantized by what was observed of their parent, some layers left float.

A submodel computes the values of its parent under their names, on fewer channels. What was observed of them
once says how far their grids reach in every submodel, so that none has to be run to find its own.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from edgevit.graph.program import Program
from edgevit.quant.insertion import insert_quantizers
from edgevit.quant.levels import Levels, groups, without
from edgevit.quant.observation import Observed, observe
from edgevit.quant.operators import is_layer
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import Granularity, SchemeChoice, start
from edgevit.quant.silu import spell_out_silu


def levels_left(program: Program, levels: Levels, kept_float: Collection[str]) -> Levels:
    """The levels of the operations that a submodel has, some of its layers float.

    Args:
        program: the submodel.
        levels: of its parent's operations.
        kept_float: node names of layers; those that the submodel lacks do not count.
    """
    left: Levels = {node.name: levels[node.name] for node in program.graph.nodes if node.name in levels}
    for layer in kept_float:
        left = without(program.graph, left, layer)
    return left


class Quantizer:
    """Quantizes the submodels of a nested Program, values on grids that cover what was seen in the parent.

    Args:
        parent: a nested Program.
        levels: of its operations.
        bits: of weights and activations.
        images: (n, channels, height, width) float32, prepared as the card says.
        granularity: of weight scales, as for `edgevit.quant.ranges.start`.
        scheme: of activation grids, likewise.

    Attributes:
        layers: node names of the layers that are integers, in the order of the network.
    """

    def __init__(
        self,
        parent: Program,
        levels: Levels,
        bits: BitWidths,
        images: torch.Tensor,
        *,
        granularity: Granularity = "auto",
        scheme: SchemeChoice = "auto",
    ) -> None:
        self.layers = integer_layers(parent, levels)
        self._levels, self._bits, self._images = levels, bits, images
        self._granularity, self._scheme = granularity, scheme
        self._observed = self._seen(*spell_out_silu(parent, levels), {})

    def __call__(self, program: Program, kept_float: Collection[str] = ()) -> Program:
        """A submodel in integers, but for some of its layers."""
        program, levels = spell_out_silu(program, levels_left(program, self._levels, kept_float))
        observed = self._observed | self._seen(program, levels, self._observed)
        quantization = start(
            program, levels, observed, self._bits, granularity=self._granularity, scheme=self._scheme
        )
        return insert_quantizers(program, quantization)

    def _seen(self, program: Program, levels: Levels, known: Collection[str]) -> dict[str, Observed]:
        """The ranges of values that need a grid, but for those that are known."""
        names = [name for group in groups(program.graph, levels) for name in group.values]
        missing = [name for name in names if name not in known]
        # What stands in for a branch is no value of the parent.
        return observe(program, self._images, missing) if missing else {}


def integer_layers(program: Program, levels: Levels) -> tuple[str, ...]:
    """Node names of the layers whose weights are integers, in the order of the network."""
    return tuple(node.name for node in program.graph.nodes if node.name in levels and is_layer(node))
