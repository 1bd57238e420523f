"""What makes a Program nested: axes whose first units are a network by themselves, at some widths.

MatFormer (arXiv 2310.07707) trains the first units of each hidden layer to do without the others. A Program
that is nested says at which widths; where it was not trained so, but made so in closed form, it also has the
weights of the layers that read fewer units. All of it is stored beside the graph, as tensors that no node
reads. Whatever rewrites the graph leaves them out: what comes of it is an ordinary Program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, find_axes
from edgevit.graph.program import Program

# As in nested/blocks.0.mlp.fc1:hidden, and nested/blocks.0.mlp.fc1:hidden/96/linear_3/weight.
_PREFIX = "nested/"
_FIT = re.compile(r"nested/(?P<axis>[^/]+)/(?P<width>\d+)/(?P<layer>[^/]+)/(?P<part>weight|bias)")


@dataclass(frozen=True)
class Fit:
    """A layer for when fewer units of an axis are left to read.

    Attributes:
        weight: (outputs, columns that are left, ...).
        bias: (outputs,); None where the layer has none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Nesting:
    """By which axes a Program is nested.

    Attributes:
        widths: for the name of each axis, in the order of the network, how many of its first units can stand
            alone: ascending, the last one is all of them.
        fits: for an axis and a width the layers that read it then, by node name; a layer that is not there
            keeps its own columns.
    """

    widths: Mapping[str, tuple[int, ...]]
    fits: Mapping[tuple[str, int], Mapping[str, Fit]] = field(default_factory=dict)


def with_nesting(program: Program, nesting: Nesting) -> Program:
    """The program, said to be nested.

    Raises:
        EdgevitError: when an axis is none of its own, may not be sliced, or cannot have such widths.
    """
    axes = {axis.name: axis for axis in find_axes(program)}
    for name, widths in nesting.widths.items():
        _check(program, axes.get(name), name, widths)
    constants = dict(_ordinary(program))
    for name, widths in nesting.widths.items():
        constants[f"{_PREFIX}{name}"] = torch.tensor(widths)
    for (name, width), layers in nesting.fits.items():
        for layer, fit in layers.items():
            path = f"{_PREFIX}{name}/{width}/{layer}"
            constants[f"{path}/weight"] = fit.weight.contiguous()
            if fit.bias is not None:
                constants[f"{path}/bias"] = fit.bias.contiguous()
    return Program(_with_constants(program.exported, constants), program.card)


def nesting_of(program: Program) -> Nesting:
    """By which axes a program is nested.

    Raises:
        EdgevitError: when it is not, or what its file holds of it is damaged.
    """
    axes = {axis.name: axis for axis in find_axes(program)}
    widths: dict[str, tuple[int, ...]] = {}
    parts: dict[tuple[str, int], dict[str, dict[str, torch.Tensor]]] = {}
    for path, value in program.exported.constants.items():
        if not path.startswith(_PREFIX):
            continue
        found = _FIT.fullmatch(path)
        if found is None:
            name = path.removeprefix(_PREFIX)
            widths[name] = tuple(int(width) for width in value.flatten())
            _check(program, axes.get(name), name, widths[name])
        else:
            layers = parts.setdefault((found["axis"], int(found["width"])), {})
            layers.setdefault(found["layer"], {})[found["part"]] = value
    if not widths:
        raise EdgevitError(
            f"{program.card.name} is not nested: it holds no submodels; make one that does with `edgevit "
            "elastic`, or train one with `edgevit train-nested`; what was rewritten, pruned or quantized "
            "since holds none any more"
        )
    if any("weight" not in tensors for layers in parts.values() for tensors in layers.values()):
        raise EdgevitError(f"{program.card.name} is damaged: a layer for a smaller width has no weight")
    fits = {
        key: {name: Fit(tensors["weight"], tensors.get("bias")) for name, tensors in layers.items()}
        for key, layers in parts.items()
    }
    return Nesting(widths, fits)


def _ordinary(program: Program) -> Mapping[str, Any]:
    constants: Mapping[str, Any] = program.exported.constants
    return {path: value for path, value in constants.items() if not path.startswith(_PREFIX)}


def _with_constants(exported: ExportedProgram, constants: dict[str, Any]) -> ExportedProgram:
    return ExportedProgram(
        root=exported.graph_module,
        graph=exported.graph,
        graph_signature=exported.graph_signature,
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        example_inputs=exported.example_inputs,
        constants=constants,
        verifiers=exported.verifiers,
    )


def _check(program: Program, axis: Axis | None, name: str, widths: tuple[int, ...]) -> None:
    if axis is None:
        raise EdgevitError(f"{name}: is no axis of {program.card.name}; `edgevit inspect --axes` lists them")
    if axis.fixed:
        raise EdgevitError(f"{name}: may not be sliced: {axis.fixed}")
    if list(widths) != sorted(set(widths)) or not widths or widths[0] < 1 or widths[-1] != axis.size:
        raise EdgevitError(
            f"{name}: its widths must be different, ascending, 1 at least and end with all {axis.size}; "
            f"given: {', '.join(map(str, widths)) or 'none'}"
        )
