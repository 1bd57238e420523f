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
from edgevit.submodels.branches import Stand, branches_of, inside
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
        layers: node names of the layers whose weights are integers of 8 bits, with a float32 scale for each
            channel that they give; all else is float32.
    """

    def __init__(self, parent: Program, layers: Collection[str]) -> None:
        self._submodels = _Submodels(parent)
        named = {node.name: node.args[1] for node in parent.graph.nodes if node.name in layers}
        self._weights = {name: weight for name, weight in named.items() if isinstance(weight, Node)}

    def __call__(self, widths: Widths, kept_float: Collection[str] = (), /) -> int:
        """Of a submodel; what stands in for a branch is counted as float32."""
        integers = frozenset(weight for name, weight in self._weights.items() if name not in kept_float)
        everything = self._submodels.parameters(widths)
        others = self._submodels.parameters(widths, without=integers)
        scales = self._submodels.channels(widths, integers)
        return _FLOAT_BYTES * (others + scales) + everything - others


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
