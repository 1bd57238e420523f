"""What each unit of a program is worth: in which order the units of every axis go, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.axes import Axis, Dimensions, Role
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.running import Runner, batches
from edgevit.pruning.elimination import Elimination, Reader, eliminate
from edgevit.pruning.fisher import channel_information
from edgevit.pruning.importance import losses_by_gradient
from edgevit.pruning.moments import Moments, rows_read
from edgevit.pruning.rotation import rotate_heads

aten = torch.ops.aten


@dataclass(frozen=True)
class Analysis:
    """A program ready to be sliced.

    Attributes:
        program: computes what the one given does, its projections split and its heads rotated.
        curves: the units of each axis in the order in which they go, and the divergence of the predictions,
            in nats, that is to be expected; added up over axes it is an estimate, no more.
    """

    program: Program
    curves: Mapping[Axis, Elimination]


def analyse(program: Program, images: torch.Tensor, *, roles: Collection[Role], seed: int = 0) -> Analysis:
    """Rotate what can be rotated, and put the units of every axis of some roles in order.

    Args:
        program: a float Program whose first result are logits.
        images: (n, channels, height, width) float32, prepared as the card says.
        roles: of the axes that may shrink.
        seed: of the classes that are drawn for the information of errors.
    """
    prepared = split_projections(prepare_for_export(program))
    turned: tuple[str, ...] = ()
    if {"query-key", "value"} & set(roles):
        prepared, turned = rotate_heads(prepared, images)
    dimensions = Dimensions(prepared)
    found = {
        axis: readings
        for axis, leaf in dimensions.axes().items()
        if not axis.fixed and axis.role in roles and (readings := reads(dimensions, leaf))
    }
    by_layers = {axis: readings for axis, readings in found.items() if all(map(is_plain, readings))}
    others = {axis: readings for axis, readings in found.items() if axis not in by_layers}
    curves = _by_layers(prepared, by_layers, images, seed)
    curves |= _by_gates(dimensions, others, turned, images, seed)
    return Analysis(prepared, {axis: curves[axis] for axis in found})


def is_plain(read: Read) -> bool:
    """Whether it is a layer without groups, whose columns are what it reads."""
    if not read.by_layer:
        return False
    weight = read.node.args[1].meta["val"]  # type: ignore[union-attr]
    return bool(weight.shape[1] == read.source.meta["val"].shape[read.place])


def _by_layers(
    program: Program, axes: Mapping[Axis, Sequence[Read]], images: torch.Tensor, seed: int
) -> dict[Axis, Elimination]:
    """Axes that only layers read: by the error of what these give."""
    layers = {read.node.name: read for readings in axes.values() for read in readings}
    if not layers:
        return {}
    places = {name: -1 if read.node.target is aten.linear.default else 1 for name, read in layers.items()}
    information = channel_information(program, places, images, seed=seed)
    moments = _moments(program, layers, images)
    constants = Runner(program).constants
    found = {}
    for axis, readings in axes.items():
        readers = []
        for read in readings:
            weight = constants[read.node.all_input_nodes[1].name].flatten(1).double()
            matters = information.get(read.node.name, torch.zeros(len(weight), dtype=torch.float64))
            units = read.units.repeat_interleave(weight.shape[1] // len(read.units))
            weighted = weight * (matters / 2).sqrt()[:, None]
            readers.append(Reader.of(weighted, moments[_key(read.node)].covariance, units))
        found[axis] = eliminate(readers, axis.size)
    return found


def _moments(program: Program, layers: Mapping[str, Read], images: torch.Tensor) -> dict[object, Moments]:
    """Of what each layer reads; layers that read the same in the same way share them."""
    by_source: dict[str, dict[object, Node]] = {}
    for read in layers.values():
        by_source.setdefault(read.source.name, {})[_key(read.node)] = read.node
    found: dict[object, Moments] = {}

    def look(name: str, value: torch.Tensor) -> None:
        for key, node in by_source[name].items():
            rows = rows_read(node, value)
            found.setdefault(key, Moments(rows.shape[1])).add(rows)

    runner = Runner(program)
    with torch.no_grad():
        for part in batches(images):
            runner.observe(part, list(by_source), look)
    return found


def _key(layer: Node) -> object:
    """What two layers have in common that read the same columns."""
    weight = layer.args[1].meta["val"]  # type: ignore[union-attr]
    return layer.all_input_nodes[0].name, tuple(weight.shape[2:]), str(layer.args[3:])


def _by_gates(
    dimensions: Dimensions,
    axes: Mapping[Axis, Sequence[Read]],
    turned: Collection[str],
    images: torch.Tensor,
    seed: int,
) -> dict[Axis, Elimination]:
    """Axes that end in products of two values: by what each unit's loss costs, the others as they are."""
    if not axes:
        return {}
    totals = losses_by_gradient(dimensions, axes, images, seed=seed)
    found = {}
    for axis, total in totals.items():
        order = torch.arange(axis.size - 1, -1, -1) if axis.name in turned else total.argsort(stable=True)
        found[axis] = Elimination(tuple(order.tolist()), tuple(total[order].cumsum(0).tolist()))
    return found
