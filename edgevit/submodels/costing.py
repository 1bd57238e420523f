"""What a submodel costs, counted without making it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, Protocol

import torch
from torch.fx import Node

from edgevit.graph.axes import Dimensions
from edgevit.graph.costs import Costs
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import shape_of
from edgevit.quant.levels import Level, Levels
from edgevit.quant.operators import bias_of, is_layer, weight_of
from edgevit.submodels.branches import Replacement, Stand, branches_of, inside
from edgevit.submodels.extraction import replaced_by, units_of
from edgevit.submodels.nesting import Widths, nesting_of

Count = Literal["macs", "parameters"]

_FLOAT_BYTES = 4


class Cost(Protocol):
    """What a submodel costs of whatever has the budget; never negative."""

    def __call__(self, widths: Widths, kept_float: Collection[str] = (), /) -> int:
        """Of a submodel, some of its integer layers left float."""


class Counted:
    """Costs of the submodels of a nested Program as functions of their widths.

    Args:
        parent: a nested Program.
        of: "macs", multiply-accumulates for one image, or "parameters", numbers that are stored.
    """

    def __init__(self, parent: Program, of: Count) -> None:
        self._of, self._submodels = of, _Submodels(parent)

    def __call__(self, widths: Widths, _kept_float: Collection[str] = (), /) -> int:
        """Of a submodel, whatever its layers compute in."""
        counted = self._submodels.macs if self._of == "macs" else self._submodels.parameters
        return counted(widths)


class Bytes:
    """Bytes of the weights of submodels, where those of some layers are integers.

    Args:
        parent: a nested Program.
        levels: of its operations. The weights of layers that have one are integers of 8 bits, with a float32
            scale for each channel that they give; biases that are added to products of integers are integers
            of 32 bits, with as many scales. All else is float32.
    """

    def __init__(self, parent: Program, levels: Levels) -> None:
        self._submodels, self._levels = _Submodels(parent), levels
        layers = [node for node in parent.graph.nodes if node.name in levels and is_layer(node)]
        self._weights = {node.name: weight_of(node) for node in layers}
        self._scaled = {
            node.name for node in layers if bias_of(node) is not None and levels[node.name] >= Level.INPUTS
        }

    def __call__(self, widths: Widths, kept_float: Collection[str] = (), /) -> int:
        """Of a submodel."""
        weights = {name: weight for name, weight in self._weights.items() if name not in kept_float}
        integers = frozenset(weights.values())
        everything = self._submodels.parameters(widths)
        others = self._submodels.parameters(widths, without=integers)
        biases = frozenset(weight for name, weight in weights.items() if name in self._scaled)
        scales = self._submodels.channels(widths, integers) + self._submodels.channels(widths, biases)
        stands = sum(map(self._saved, replaced_by(widths).items()))
        return _FLOAT_BYTES * (others + scales) + everything - others - stands

    def _saved(self, replacement: tuple[str, Replacement]) -> int:
        """What integers save of a layer that stands in for a branch: at the level of the branch's result."""
        result, stand = self._submodels.stand(replacement)
        level = self._levels.get(result, Level.FLOAT)
        if stand.weight is None or level == Level.FLOAT:
            return 0
        scales = len(stand.bias) * (2 if level >= Level.INPUTS else 1)
        return (_FLOAT_BYTES - 1) * stand.weight.numel() - _FLOAT_BYTES * scales


class _Submodels:
    """Sizes of a nested Program's submodels."""

    def __init__(self, parent: Program) -> None:
        dimensions = Dimensions(parent)
        nesting = nesting_of(parent)
        self._costs, self._of = Costs(dimensions), dimensions.of
        self._leaves = {axis.name: leaf for axis, leaf in dimensions.axes().items()}
        branches = branches_of(dimensions) if nesting.stands else {}
        self._inside = {name: inside(dimensions, branches[name]) for name in nesting.replacements}
        nodes = {node.name: node for node in parent.graph.nodes}
        self._added = {
            (name, replacement): _added(stand, nodes[branches[name].result])
            for (name, replacement), stand in nesting.stands.items()
        }
        self._stands = {key: (branches[key[0]].result, stand) for key, stand in nesting.stands.items()}

    def macs(self, widths: Widths) -> int:
        """Multiply-accumulates for one image."""
        added = sum(self._added[key][0] for key in replaced_by(widths).items())
        return self._costs.macs(self._choices(widths), without=self._gone(widths)) + added

    def parameters(self, widths: Widths, *, without: frozenset[Node] = frozenset()) -> int:
        """Numbers that are stored, but for some of the tensors."""
        added = sum(self._added[key][1] for key in replaced_by(widths).items())
        return self._costs.parameters(self._choices(widths), without=self._gone(widths) | without) + added

    def channels(self, widths: Widths, weights: frozenset[Node]) -> int:
        """What the layers of some weights give, in all."""
        choices = self._choices(widths)
        return sum(int(self._of[weight][0].left(choices)) for weight in weights - self._gone(widths))

    def stand(self, replacement: tuple[str, Replacement]) -> tuple[str, Stand]:
        """The node that gives what a branch adds, and what stands in for it."""
        return self._stands[replacement]

    def _choices(self, widths: Widths) -> dict[Dim, torch.Tensor]:
        return {self._leaves[name]: torch.arange(units) for name, units in units_of(widths).items()}

    def _gone(self, widths: Widths) -> frozenset[Node]:
        return frozenset[Node]().union(*(self._inside[name] for name in replaced_by(widths)))


def _added(stand: Stand, result: Node) -> tuple[int, int]:
    """Multiply-accumulates for one image, and numbers, of what stands in for a branch."""
    weights = 0 if stand.weight is None else stand.weight.numel()
    others = [size for size in shape_of(result)[1:] if isinstance(size, int)]
    positions = math.prod(others) // len(stand.bias)
    return weights * positions, weights + len(stand.bias)
