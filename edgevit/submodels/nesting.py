"""What makes a Program nested: axes whose first units are a network by themselves, at some widths.

MatFormer (arXiv 2310.07707) trains the first units of each hidden layer to do without the others. A Program
that is nested says at which widths; where it was not trained so, but made so in closed form, it also has the
weights of the layers that read fewer units, and of what may stand in for whole residual branches. All of it
is stored beside the graph, as tensors that no node reads. Whatever rewrites the graph leaves them out: what
comes of it is an ordinary Program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.export import ExportedProgram

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, Dimensions
from edgevit.graph.program import Program
from edgevit.submodels.branches import Replacement, Stand, branches_of

# As in nested/blocks.0.mlp.fc1:hidden, and nested/blocks.0.mlp.fc1:hidden/96/linear_3/weight.
_PREFIX = "nested/"
_FIT = re.compile(r"nested/(?P<axis>[^/]+)/(?P<width>\d+)/(?P<layer>[^/]+)/(?P<part>weight|bias)")
# As in nested/blocks.0.mlp/linear/weight.
_STAND = re.compile(r"nested/(?P<branch>[^/]+)/(?P<replacement>skip|linear)/(?P<part>weight|bias)")

#: What a submodel is: how many of the first units of an axis stay, or what stands in for a residual branch,
#: by the name of either. What is not named stays whole.
Widths = Mapping[str, int | Replacement]


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
        stands: for the name of a residual branch what may stand in for it.
    """

    widths: Mapping[str, tuple[int, ...]]
    fits: Mapping[tuple[str, int], Mapping[str, Fit]] = field(default_factory=dict)
    stands: Mapping[tuple[str, Replacement], Stand] = field(default_factory=dict)

    @property
    def replacements(self) -> dict[str, tuple[Replacement, ...]]:
        """For each residual branch that something may stand in for, what."""
        found: dict[str, tuple[Replacement, ...]] = {}
        for name, replacement in self.stands:
            found[name] = (*found.get(name, ()), replacement)
        return found


def with_nesting(program: Program, nesting: Nesting) -> Program:
    """The program, said to be nested.

    Raises:
        EdgevitError: when an axis or a branch is none of its own, an axis may not be sliced, or what is given
            cannot be.
    """
    dimensions = Dimensions(program)
    axes = {axis.name: axis for axis in dimensions.axes()}
    for name, widths in nesting.widths.items():
        _check(program, axes.get(name), name, widths)
    _check_stands(dimensions, nesting.stands)
    constants = dict(_ordinary(program))
    for name, widths in nesting.widths.items():
        constants[f"{_PREFIX}{name}"] = torch.tensor(widths)
    for (name, width), layers in nesting.fits.items():
        for layer, fit in layers.items():
            path = f"{_PREFIX}{name}/{width}/{layer}"
            constants[f"{path}/weight"] = fit.weight.contiguous()
            if fit.bias is not None:
                constants[f"{path}/bias"] = fit.bias.contiguous()
    for (branch, replacement), stand in nesting.stands.items():
        constants[f"{_PREFIX}{branch}/{replacement}/bias"] = stand.bias.contiguous()
        if stand.weight is not None:
            constants[f"{_PREFIX}{branch}/{replacement}/weight"] = stand.weight.contiguous()
    return Program(_with_constants(program.exported, constants), program.card)


def nesting_of(program: Program) -> Nesting:
    """By which axes a program is nested.

    Raises:
        EdgevitError: when it is not, or what its file holds of it is damaged.
    """
    stored = {path: value for path, value in program.exported.constants.items() if path.startswith(_PREFIX)}
    if not stored:
        raise EdgevitError(
            f"{program.card.name} is not nested: it holds no submodels; make one that does with `edgevit "
            "elastic`, or train one with `edgevit train-nested`; what was rewritten, pruned or quantized "
            "since holds none any more"
        )
    dimensions = Dimensions(program)
    axes = {axis.name: axis for axis in dimensions.axes()}
    widths: dict[str, tuple[int, ...]] = {}
    fits: dict[tuple[str, int], dict[str, dict[str, torch.Tensor]]] = {}
    stands: dict[tuple[str, Replacement], dict[str, torch.Tensor]] = {}
    for path, value in stored.items():
        if fit := _FIT.fullmatch(path):
            layers = fits.setdefault((fit["axis"], int(fit["width"])), {})
            layers.setdefault(fit["layer"], {})[fit["part"]] = value
        elif stand := _STAND.fullmatch(path):
            key = (stand["branch"], cast(Replacement, stand["replacement"]))
            stands.setdefault(key, {})[stand["part"]] = value
        else:
            name = path.removeprefix(_PREFIX)
            widths[name] = tuple(int(width) for width in value.flatten())
            _check(program, axes.get(name), name, widths[name])
    if any("weight" not in tensors for layers in fits.values() for tensors in layers.values()):
        raise EdgevitError(f"{program.card.name} is damaged: a layer for a smaller width has no weight")
    if any("bias" not in tensors for tensors in stands.values()):
        raise EdgevitError(f"{program.card.name} is damaged: what stands in for a branch has no bias")
    found = Nesting(
        widths,
        {
            key: {name: Fit(tensors["weight"], tensors.get("bias")) for name, tensors in layers.items()}
            for key, layers in fits.items()
        },
        {key: Stand(tensors.get("weight"), tensors["bias"]) for key, tensors in stands.items()},
    )
    _check_stands(dimensions, found.stands)
    return found


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


def _check_stands(dimensions: Dimensions, stands: Mapping[tuple[str, Replacement], Stand]) -> None:
    if not stands:
        return
    program, branches = dimensions.program, branches_of(dimensions)
    nodes = {node.name: node for node in program.graph.nodes}
    for (name, replacement), stand in stands.items():
        if name not in branches:
            raise EdgevitError(f"{name}: is no residual branch of {program.card.name} that can be replaced")
        branch = branches[name]
        channels = int(nodes[branch.result].meta["val"].shape[branch.place])
        wanted = {"bias": (channels,), "weight": (channels, channels)}
        given = {"bias": stand.bias} | ({} if stand.weight is None else {"weight": stand.weight})
        if (replacement == "linear") != ("weight" in given) or not all(
            tuple(value.shape) == wanted[part] and bool(torch.isfinite(value).all())
            for part, value in given.items()
        ):
            raise EdgevitError(
                f"{program.card.name} is damaged: what stands in for {name} ({replacement}) does not fit it"
            )
