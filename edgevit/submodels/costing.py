"""What a submodel costs, counted without making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch.fx import Node

from edgevit.graph.axes import Dimensions
from edgevit.graph.costs import Costs
from edgevit.graph.program import Program
from edgevit.graph.rewriting import shape_of
from edgevit.submodels.branches import branches_of, inside
from edgevit.submodels.extraction import replaced_by, units_of
from edgevit.submodels.nesting import Widths, nesting_of

Count = Literal["macs", "parameters"]

#: What a submodel costs of whatever has the budget; never negative.
Cost = Callable[[Widths], int]


class Counted:
    """Costs of the submodels of a nested Program as functions of their widths.

    Args:
        parent: a nested Program.
        of: "macs", multiply-accumulates for one image, or "parameters", numbers that are stored.
    """

    def __init__(self, parent: Program, of: Count) -> None:
        dimensions = Dimensions(parent)
        leaves = dimensions.axes()
        costs, nesting = Costs(dimensions), nesting_of(parent)
        self._counted = {"macs": costs.macs, "parameters": costs.parameters}[of]
        self._leaves = {axis.name: leaf for axis, leaf in leaves.items()}
        self._inside, self._added = {}, {}
        branches = branches_of(dimensions) if nesting.stands else {}
        nodes = {node.name: node for node in parent.graph.nodes}
        for (name, replacement), stand in nesting.stands.items():
            self._inside[name] = inside(dimensions, branches[name])
            weights = 0 if stand.weight is None else stand.weight.numel()
            others = [size for size in shape_of(nodes[branches[name].result])[1:] if isinstance(size, int)]
            positions = torch.Size(others).numel() // len(stand.bias)
            self._added[name, replacement] = {
                "macs": weights * positions,
                "parameters": weights + len(stand.bias),
            }[of]

    def __call__(self, widths: Widths) -> int:
        """Of a submodel."""
        choices = {self._leaves[name]: torch.arange(units) for name, units in units_of(widths).items()}
        replaced = replaced_by(widths)
        gone = frozenset[Node]().union(*(self._inside[name] for name in replaced))
        return int(self._counted(choices, without=gone)) + sum(self._added[key] for key in replaced.items())
