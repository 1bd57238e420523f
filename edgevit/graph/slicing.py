"""Keep some indices of an axis wherever it occurs: a smaller Program, and still one that can be trained.

Parameters and buffers that carry the axis are index-selected, and sizes that are literals in the graph
follow. What a literal means stays what it was: the scale of a softmax is that of the width that the model was
trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis, Dimensions, stored_tensors
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor

aten = torch.ops.aten

Choices = Mapping[Dim, torch.Tensor]


def slice_axes(program: Program, keep: Mapping[Axis, Sequence[int]]) -> Program:
    """The program with some indices of some axes alone.

    Args:
        program: as it was given to `find_axes`.
        keep: for each axis the indices that stay, in ascending order, each at most once.

    Raises:
        EdgevitError: when an axis is another program's or may not be sliced, or the indices are none,
            repeated or beyond its size.
    """
    for axis, indices in keep.items():
        _check(axis, indices)
    dimensions = Dimensions(program)
    dims = dimensions.axes()
    for axis in keep:
        if axis not in dims:
            raise EdgevitError(
                f"{axis.name}: is no axis of {program.card.name}; take those that find_axes gives of it"
            )
    choices = {dims[axis]: torch.tensor(list(indices)) for axis, indices in keep.items()}
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    for node, _, value in stored_tensors(program):
        small = sliced(value, dimensions.of[node], choices)
        if small.shape != value.shape:
            editor.set_value(nodes[node.name], small)
    for node in dimensions.of:
        resize(node, nodes[node.name], dimensions, choices)
    return editor.finish("slice", axes=len(keep))


def slice_axis(program: Program, axis: Axis, keep: Sequence[int]) -> Program:
    """`slice_axes` of one axis."""
    return slice_axes(program, {axis: keep})


def sliced(value: torch.Tensor, dims: Sequence[Dim], choices: Choices) -> torch.Tensor:
    """A tensor without the indices that are dropped."""
    for place, dim in enumerate(dims):
        if any(leaf in choices for leaf in dim.leaves()):
            value = value.index_select(place, dim.kept(choices).to(value.device))
    return value


def resize(node: Node, copy: Node, dimensions: Dimensions, choices: Choices) -> None:
    """Let the literal sizes of a call's copy follow.

    Args:
        node: the call in the original graph.
        copy: its copy in a graph that is edited.
        dimensions: of the original graph.
        choices: what is kept.
    """
    if node.target in _LITERALS:
        _LITERALS[node.target](_Resized(node, copy, dimensions.of[node], dimensions.of, choices))


def _check(axis: Axis, indices: Sequence[int]) -> None:
    if axis.fixed:
        raise EdgevitError(f"{axis.name}: may not be sliced: {axis.fixed}")
    if not indices:
        raise EdgevitError(f"{axis.name}: no index is left of {axis.size}; keep one at least")
    if list(indices) != sorted(set(indices)) or not 0 <= indices[0] <= indices[-1] < axis.size:
        raise EdgevitError(
            f"{axis.name}: the indices to keep must be different, in ascending order, "
            f"and from 0 to {axis.size - 1}"
        )


@dataclass(frozen=True)
class _Resized:
    """A call whose literals are to follow.

    Attributes:
        node: of the original graph.
        copy: of the graph that is edited.
        dims: of what it gives.
        of: of all others.
        choices: what is kept.
    """

    node: Node
    copy: Node
    dims: Any
    of: Mapping[Node, Any]
    choices: Choices

    @property
    def args(self) -> list[Any]:
        """The arguments of the original call."""
        return list(self.node.args)

    def size(self, dim: Dim) -> int:
        """What is left of a dimension's size."""
        return dim.left(self.choices)

    def set(self, place: int, name: str, value: Any) -> None:
        """Change an argument of the copy."""
        if place < len(self.copy.args):
            self.copy.update_arg(place, value)
        else:
            self.copy.update_kwarg(name, value)

    def input(self, place: int = 0) -> list[Dim]:
        """The dimensions of an argument."""
        found: list[Dim] = self.of[self.args[place]]
        return found


def _sizes(call: _Resized) -> None:
    """The sizes of a reshape or an expansion: numbers follow, -1 and sizes of the batch stay."""
    sizes: list[Any] = list(call.copy.args[1])  # type: ignore[arg-type]
    for place, (size, dim) in enumerate(zip(sizes, call.dims, strict=True)):
        left = call.size(dim)
        if left == dim.size:
            continue
        if isinstance(size, int):
            sizes[place] = left if size != -1 else -1
        elif -1 not in sizes:
            sizes[place] = -1
        else:
            raise EdgevitError(
                f"{call.node.format_node()}: a size of it depends on the batch and on the axis"
            )
    call.set(1, "size", sizes)


def _expanded(call: _Resized) -> None:
    sizes: list[Any] = list(call.copy.args[1])  # type: ignore[arg-type]
    for place, (size, dim) in enumerate(zip(sizes, call.dims, strict=True)):
        if isinstance(size, int) and size != -1:
            sizes[place] = call.size(dim)
    call.set(1, "size", sizes)


def _unflattened(call: _Resized) -> None:
    place, sizes = call.args[1], call.args[2]
    first = place % len(call.input())
    dims = call.dims[first : first + len(sizes)]
    found = [size if size == -1 else call.size(dim) for size, dim in zip(sizes, dims, strict=True)]
    call.set(2, "sizes", found)


def _pieces(call: _Resized) -> None:
    """A split into pieces that may not be of one size any more."""
    place = call.args[2] if len(call.args) > 2 else call.node.kwargs.get("dim", 0)
    sizes = [call.size(piece[place]) for piece in call.dims]
    if sizes == [piece[place].size for piece in call.dims]:
        return
    call.copy.target = aten.split_with_sizes.default
    call.copy.args, call.copy.kwargs = (call.copy.args[0], sizes, place), {}


def _bounds(call: _Resized) -> None:
    given = call.args[1:4]
    place, first, last = given + [0, None, None][len(given) :]
    dim = call.input()[place]
    kept = dim.kept(call.choices)
    if len(kept) == dim.size:
        return
    for argument, (name, bound) in enumerate({"start": first, "end": last}.items(), start=2):
        if isinstance(bound, int) and bound < dim.size:
            call.set(argument, name, int((kept < bound % dim.size).sum()))


def _groups(call: _Resized) -> None:
    """Groups of a convolution: as many as its input has of what its weight reads."""
    if len(call.args) > 6 or "groups" in call.node.kwargs:
        call.set(6, "groups", call.size(call.input()[1]) // call.size(call.input(1)[1]))


def _norm_groups(call: _Resized) -> None:
    channels, count = call.dims[1], call.args[1]
    kept = channels.kept(call.choices)
    call.set(1, "num_groups", len((kept // (channels.size // count)).unique()))


def _normalized(call: _Resized) -> None:
    rank = len(call.args[1])
    call.set(1, "normalized_shape", [call.size(dim) for dim in call.dims[-rank:]])


def _scale(call: _Resized) -> None:
    """Attention's default scale is that of the width it finds; it must be that of the width it had."""
    width = call.input()[-1]
    if call.node.kwargs.get("scale") is None and call.size(width) != width.size:
        call.copy.update_kwarg("scale", 1 / math.sqrt(width.size))


_LITERALS: dict[Any, Callable[[_Resized], None]] = {
    aten.view.default: _sizes,
    aten.reshape.default: _sizes,
    aten.expand.default: _expanded,
    aten.unflatten.int: _unflattened,
    aten.split.Tensor: _pieces,
    aten.split_with_sizes.default: _pieces,
    aten.chunk.default: _pieces,
    aten.slice.Tensor: _bounds,
    aten.conv1d.default: _groups,
    aten.conv2d.default: _groups,
    aten.group_norm.default: _norm_groups,
    aten.layer_norm.default: _normalized,
    aten.scaled_dot_product_attention.default: _scale,
}
