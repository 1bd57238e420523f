"""The reference for slicing: the whole network, with everything zero that a slice drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgevit.graph.axes import Axis, Dimensions
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.running import Runner

aten = torch.ops.aten

Choices = Mapping[Dim, torch.Tensor]


def masked(program: Program, keep: Mapping[Axis, list[int]], images: torch.Tensor) -> torch.Tensor:
    """The first result when, behind every operator, each dropped index is zero.

    Norms see what is kept alone: their statistics are of the smaller network.
    """
    dimensions = Dimensions(program)
    axes = dimensions.axes()
    choices = {axes[axis]: torch.tensor(indices) for axis, indices in keep.items()}
    runner = Runner(program)
    overrides = {
        node.name: _masked(node.target, dims, choices, len(images))
        for node, dims in dimensions.of.items()
        if node.op == "call_function"
    }
    with torch.no_grad():
        return runner.run({runner.image: images}, runner.results[:1], overrides=overrides)[runner.results[0]]


def _masked(target: Any, dims: Any, choices: Choices, batch: int) -> Callable[..., Any]:
    if target is aten.layer_norm.default:
        return _norm_of_kept(target, -1, dims[-1].kept(choices))
    if target is aten.group_norm.default:
        return _norm_of_kept(target, 1, dims[1].kept(choices))

    def compute(*args: Any, **kwargs: Any) -> Any:
        found = target(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return _zeroed(found, dims, choices, batch)
        return [_zeroed(part, of, choices, batch) for part, of in zip(found, dims, strict=True)]

    return compute


def _norm_of_kept(target: Any, place: int, kept: torch.Tensor) -> Callable[..., torch.Tensor]:
    def compute(values: torch.Tensor, extent: Any, *rest: Any) -> torch.Tensor:
        channels = values.shape[place]
        extent = [len(kept)] if isinstance(extent, list) else len((kept // (channels // extent)).unique())
        rest = tuple(part[kept] if isinstance(part, torch.Tensor) else part for part in rest)
        normalized = target(values.index_select(place, kept), extent, *rest)
        return torch.zeros_like(values).index_copy(place, kept, normalized)

    return compute


def _zeroed(values: torch.Tensor, dims: list[Dim], choices: Choices, batch: int) -> torch.Tensor:
    for place, dim in enumerate(dims):
        if any(leaf in choices for leaf in dim.leaves()):
            stays = _stays(dim, choices, batch)
            values = values.movedim(place, -1).where(stays, 0.0).movedim(-1, place)
    return values


def _stays(dim: Dim, choices: Choices, batch: int) -> torch.Tensor:
    """bool (size,): which indices are kept, the batch as large as it is."""
    if dim.form == "whole":
        if dim.fixed == "it is the batch":
            return torch.ones(batch, dtype=torch.bool)
        stays = torch.ones(dim.size, dtype=torch.bool)
        if dim.root in choices:
            stays[:] = False
            stays[choices[dim.root]] = True
        return stays
    parts = [_stays(part, choices, batch) for part in dim.parts]
    if dim.form == "sum":
        return torch.cat(parts)
    found = parts[0]
    for part in parts[1:]:
        found = (found[:, None] & part).flatten()
    return found
