"""Reorderings of more than five axes, as in window partitions, become ones of at most five."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import in_place_calls
from edgevit.graph.rewrites.merge_reshapes import PERMUTES, RESHAPES, permutation
from edgevit.graph.rewriting import Editor, Shape, Size, calls, constant_shape, is_call, shape_of

aten = torch.ops.aten

# Core ML tensors have at most five axes.
MAX_RANK = 5

_COPIES = {aten.contiguous.default, aten.clone.default}


@dataclass(frozen=True)
class _Reordering:
    """A reshape to many axes, permutes, and a reshape to few.

    Attributes:
        source: what is reordered.
        shape: with many axes.
        order: the permutes as one.
        result: the last reshape.
    """

    source: Node
    shape: Shape
    order: list[int]
    result: Node


def limit_rank(program: Program) -> Program:
    """Replace reshape - permute - reshape through more than five axes by the same through at most five.

    Given (a window partition, Swin, arXiv 2103.14030, section 3.2)::

        reshape (b, h/7, 7, w/7, 7, c) -> permute (0, 1, 3, 2, 4, 5) -> reshape (-1, 49, c)

    Result, axes that stay neighbours being one::

        reshape (b h/7, 7, w/7, 7 c) -> permute (0, 2, 1, 3) -> reshape (-1, 49, c)

    Where neighbours alone do not bring it to five axes, the permute is made of several that each move one
    run of axes, four axes at a time. A reordering with another reader in its middle is left alone.
    """
    editor = Editor(program)
    if in_place_calls(editor.graph):
        return program
    found = [_reordering(node) for node in calls(editor.graph, RESHAPES)]
    changed = sum(_rewrite(editor, reordering) for reordering in found if reordering is not None)
    return editor.finish("limit_rank", changed=changed) if changed else program


def _reordering(start: Node) -> _Reordering | None:
    """The reordering that begins with this reshape."""
    source, shape = start.args[0], shape_of(start)
    if len(shape) <= MAX_RANK or not isinstance(source, Node) or len(shape_of(source)) > MAX_RANK:
        return None
    node, order = start, list(range(len(shape)))
    while len(node.users) == 1:
        node = next(iter(node.users))
        if is_call(node, PERMUTES):
            order = [order[axis] for axis in permutation(node)]
        elif is_call(node, RESHAPES):
            fits = len(shape_of(node)) <= MAX_RANK and constant_shape(shape_of(node)) is not None
            return _Reordering(source, shape, order, node) if fits else None
        elif node.target not in _COPIES:
            return None
    return None


def _rewrite(editor: Editor, reordering: _Reordering) -> bool:
    sizes, order = _joined(reordering.shape, reordering.order)
    if sum(not isinstance(size, int) for size in sizes) > 1:
        return False
    node = reordering.source
    with editor.before(reordering.result):
        for shape, axes in _steps(sizes, order):
            node = editor.call(aten.reshape.default, node, constant_shape(shape))
            node = editor.call(aten.permute.default, node, axes)
        node = editor.call(aten.reshape.default, node, constant_shape(shape_of(reordering.result)))
    editor.replace(reordering.result, node)
    return True


def _joined(shape: Shape, order: list[int]) -> tuple[list[Size], list[int]]:
    """The same reordering with axes of size 1 left out and axes that stay neighbours taken as one.

    >>> _joined((8, 2, 7, 4, 7, 96), [0, 1, 3, 2, 4, 5])
    ([16, 7, 4, 672], [0, 2, 1, 3])
    """
    runs: list[list[int]] = []
    for axis in order:
        if isinstance(shape[axis], int) and shape[axis] == 1:
            continue
        if runs and _follows(shape, runs[-1][-1], axis):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    by_source = sorted(runs)
    sizes = [math.prod((shape[axis] for axis in run), start=1) for run in by_source]
    return sizes, [by_source.index(run) for run in runs]


def _follows(shape: Shape, axis: int, other: int) -> bool:
    """Whether nothing but axes of size 1 lies between two axes."""
    between = shape[axis + 1 : other]
    return axis < other and all(isinstance(size, int) and size == 1 for size in between)


def _steps(sizes: list[Size], order: list[int]) -> list[tuple[Shape, list[int]]]:
    """Shapes and permutes of at most `MAX_RANK` axes that, one after the other, make the reordering.

    >>> _steps([2, 3, 4], [2, 1, 0])
    [((2, 3, 4), [2, 1, 0])]
    """
    if len(sizes) <= MAX_RANK:
        return [(tuple(sizes), order)]
    steps: list[tuple[Shape, list[int]]] = []
    current = list(range(len(sizes)))
    for place, axis in enumerate(order):
        found = current.index(axis)
        if found == place:
            continue
        parts = (current[:place], current[place:found], [axis], current[found + 1 :])
        steps.append((tuple(math.prod((sizes[i] for i in part), start=1) for part in parts), [0, 2, 1, 3]))
        current = [*parts[0], axis, *parts[1], *parts[3]]
    return steps
