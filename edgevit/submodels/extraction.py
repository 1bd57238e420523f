"""From a nested Program to one of its submodels, and to the parent that computes the same with zeros.

A submodel keeps the first units of each axis, as in MatFormer (arXiv 2310.07707, section 3): rows of the
layers that make them, columns of those that read them; what a layer adds besides stays. Whole residual
branches may be replaced as well, by their mean or by one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch.fx import Node

from edgevit.errors import EdgevitError, closest
from edgevit.graph.axes import Axis, Dimensions
from edgevit.graph.card import Step
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.reads import Read, reads
from edgevit.graph.rewriting import Editor
from edgevit.graph.slicing import slice_axes
from edgevit.pruning.compensation import compensate
from edgevit.submodels.branches import Replacement, branches_of, put_in_place
from edgevit.submodels.nesting import Fit, Nesting, Widths, nesting_of


def extract(program: Program, widths: Widths) -> Program:
    """The submodel of some widths, as an ordinary Program.

    Args:
        program: a nested one.
        widths: how many of the first units of an axis stay, and what stands in for a residual branch; all
            else stays whole.

    Raises:
        EdgevitError: when the program is not nested, or an axis, a branch or a width is none of its own.
    """
    nesting = nesting_of(program)
    check_widths(program, nesting, widths)
    dimensions = Dimensions(program)
    units = units_of(widths)
    fits = _fits(nesting, units)
    _check_fits(program, dimensions, fits, units)
    narrowed = _narrowed(dimensions, units)
    small = slice_axes(program, narrowed) if narrowed else program
    editor = Editor(small)
    copies = {node.name: node for node in editor.graph.nodes}
    choices = _choices(dimensions, narrowed)
    for layer, fit in fits.items():
        rows = dimensions.of[_node(program, layer)]
        # Other axes may have taken some of what the layer gives.
        channels = rows[-1] if copies[layer].target is torch.ops.aten.linear.default else rows[1]
        kept = channels.kept(choices)
        _set(editor, copies[layer], fit.weight[kept], None if fit.bias is None else fit.bias[kept])
    _replace_branches(editor, dimensions, nesting, widths)
    exported = editor.finish("submodel").exported
    measured: dict[str, JsonValue] = dict(widths)
    return Program(exported, program.card.with_step(Step(name="submodel", measured={"widths": measured})))


def refitted(parent: Program, widths: Widths, images: torch.Tensor) -> Program:
    """The submodel of some widths, whose layers are fitted to this very submodel, one behind the other.

    The layers that a nested Program holds for a width know nothing of what other axes lost; these do, and
    mend it (`edgevit.pruning.compensation.compensate`).

    Args:
        parent: a nested Program.
        widths: as for `extract`.
        images: (n, channels, height, width) float32, prepared as the card says; 16 at least, 256 are usual.

    Raises:
        EdgevitError: as `extract`; and when there are fewer images.
    """
    small = extract(parent, widths)
    keep = _narrowed(Dimensions(parent), units_of(widths))
    if not keep and not replaced_by(widths):
        return small
    fitted, layers = compensate(parent, small, keep, images)
    step = Step(name="refit", measured={"layers": len(layers), "images": len(images)})
    return Program(fitted.exported, small.card.with_step(step))


def masked(program: Program, widths: Widths) -> Program:
    """The parent in which every unit that a submodel lacks is read as zero: it computes what `extract` gives.

    What stands in for a residual branch stands in for it here as well.

    Raises:
        EdgevitError: as `extract`; and when an axis is read by anything but layers.
    """
    nesting = nesting_of(program)
    check_widths(program, nesting, widths)
    dimensions = Dimensions(program)
    leaves = {axis.name: leaf for axis, leaf in dimensions.axes().items()}
    units = units_of(widths)
    fits = _fits(nesting, units)
    editor = Editor(program)
    copies = {node.name: node for node in editor.graph.nodes}
    for name, width in units.items():
        for read in reads(dimensions, leaves[name]):
            layer = copies[read.node.name]
            if not read.by_layer:
                raise EdgevitError(f"{name}: {read.node.name} reads it, which is no layer with a weight")
            weight, bias = editor.stored(layer.args[1]).clone(), editor.value(_bias(layer))
            kept = columns_kept(read, width, weight)
            fit = fits.get(layer.name)
            if fit is not None:
                weight[:, kept] = fit.weight
                bias = fit.bias if fit.bias is not None else bias
            weight[:, ~kept] = 0.0
            _set(editor, layer, weight, bias)
    _replace_branches(editor, dimensions, nesting, widths)
    return editor.finish("mask")


def units_of(widths: Widths) -> dict[str, int]:
    """Of a submodel, how many units of axes stay."""
    return {name: width for name, width in widths.items() if isinstance(width, int)}


def replaced_by(widths: Widths) -> dict[str, Replacement]:
    """Of a submodel, what stands in for residual branches."""
    return {name: stand for name, stand in widths.items() if not isinstance(stand, int)}


def columns_kept(read: Read, width: int, weight: torch.Tensor) -> torch.Tensor:
    """Which columns of a layer's weight read the first units of an axis, or none of its units: bool."""
    units = read.units
    if len(units) != weight.shape[1]:
        raise EdgevitError(f"{read.node.name}: reads the axis in groups, which cannot be masked by columns")
    return units < width


def readers_of(dimensions: Dimensions, axis: str) -> set[str]:
    """The operations that read an axis of some name."""
    leaf = next(leaf for one, leaf in dimensions.axes().items() if one.name == axis)
    return {read.node.name for read in reads(dimensions, leaf)}


def check_widths(program: Program, nesting: Nesting, widths: Widths) -> None:
    """Refuse widths that no submodel has.

    Raises:
        EdgevitError: naming the first.
    """
    replacements = nesting.replacements
    for name, width in widths.items():
        if name not in nesting.widths and name not in replacements:
            known = [*nesting.widths, *replacements]
            raise EdgevitError(f"{name}: {program.card.name} is not nested by it; {closest(name, known)}")
        allowed = replacements.get(name) or nesting.widths[name]
        if width not in allowed:
            what = f"{width} units" if isinstance(width, int) else repr(width)
            raise EdgevitError(
                f"{name}: {what}; {program.card.name} is nested at {', '.join(map(str, allowed))}"
            )


def _narrowed(dimensions: Dimensions, units: Mapping[str, int]) -> dict[Axis, range]:
    """The axes of which not all units stay, and those that do."""
    axes = {axis.name: axis for axis in dimensions.axes()}
    return {axes[name]: range(width) for name, width in units.items() if width < axes[name].size}


def _replace_branches(editor: Editor, dimensions: Dimensions, nesting: Nesting, widths: Widths) -> None:
    replaced = replaced_by(widths)
    branches = branches_of(dimensions) if replaced else {}
    for name, replacement in replaced.items():
        put_in_place(editor, branches[name], nesting.stands[name, replacement])


def _fits(nesting: Nesting, widths: Mapping[str, int]) -> dict[str, Fit]:
    """The layers that are to be others at such widths."""
    return {
        layer: fit
        for name, width in widths.items()
        for layer, fit in nesting.fits.get((name, width), {}).items()
    }


def _check_fits(
    program: Program, dimensions: Dimensions, fits: Mapping[str, Fit], widths: Mapping[str, int]
) -> None:
    """Refuse what a file was given to hold and its graph does not fit."""
    leaves = {axis.name: leaf for axis, leaf in dimensions.axes().items()}
    readers = {
        read.node.name: (read, widths[name]) for name in widths for read in reads(dimensions, leaves[name])
    }
    for layer, fit in fits.items():
        read, width = readers.get(layer, (None, 0))
        shape = None if read is None else tuple(read.node.args[1].meta["val"].shape)  # type: ignore[union-attr]
        if read is None or shape is None or not read.by_layer:
            raise EdgevitError(
                f"{program.card.name} is damaged: {layer} is none of its layers that can be narrower"
            )
        wanted = (shape[0], int(((read.units >= 0) & (read.units < width)).sum()), *shape[2:])
        bias = fit.weight.new_zeros(shape[0]) if fit.bias is None else fit.bias
        finite = all(bool(torch.isfinite(value).all()) for value in (fit.weight, bias))
        if tuple(fit.weight.shape) != wanted or tuple(bias.shape) != (shape[0],) or not finite:
            raise EdgevitError(
                f"{program.card.name} is damaged: the weight of {layer} at {width} units is "
                f"{tuple(fit.weight.shape)}, not {wanted} finite numbers"
            )


def _choices(dimensions: Dimensions, keep: Mapping[Axis, range]) -> dict[Dim, torch.Tensor]:
    leaves = dimensions.axes()
    return {leaves[axis]: torch.tensor(list(indices)) for axis, indices in keep.items()}


def _set(editor: Editor, layer: Node, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    for constant, value in ((layer.args[1], weight), (_bias(layer), bias)):
        if isinstance(constant, Node) and value is not None:
            layer.replace_input_with(constant, editor.with_value(constant, layer, value))


def _node(program: Program, name: str) -> Node:
    found: Node = next(node for node in program.graph.nodes if node.name == name)
    return found


def _bias(layer: Node) -> Node | None:
    bias = layer.args[2] if len(layer.args) > 2 else None
    return bias if isinstance(bias, Node) else None
