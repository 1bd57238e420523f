"""Reshapes that follow one another become one, and so do permutes."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import in_place_calls
from edgevit.graph.rewriting import Editor, calls, constant_shape, is_call, same_shape, shape_of

aten = torch.ops.aten

RESHAPES = {
    aten.view.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.view_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}
_SHAPED_LIKE_ANOTHER = {aten.reshape_as.default, aten.view_as.default}
PERMUTES = {aten.permute.default, aten.transpose.int, aten.t.default}


def merge_reshapes(program: Program) -> Program:
    """Merge chains of reshapes and chains of permutes; drop those that undo one another.

    Given::

        a = view(x, [b, 49, 96]); c = flatten(a, 0, 1); d = permute(c, [1, 0]); e = transpose(d, 0, 1)

    Result::

        e = reshape(x, [-1, 96])

    A link of the chain that something else reads as well stays for that reader. A merged reshape says -1
    for the size that depends on the batch, so the arithmetic that computed it falls away; for the same
    reason ``reshape_as(x, y)`` becomes a reshape, which does not keep y waiting. Programs with in-place
    operators are left alone: a reshape there may be the other name of what is written to.
    """
    editor = Editor(program)
    if in_place_calls(editor.graph):
        return program
    total = sum(_spell_out(editor, node) for node in calls(editor.graph, _SHAPED_LIKE_ANOTHER))
    # Permutes that cancel bring reshapes together, and the other way round.
    while changed := sum(_merge(editor, node) for node in list(editor.graph.nodes)):
        editor.graph.eliminate_dead_code()
        total += changed
    return editor.finish("merge_reshapes", changed=total) if total else program


def _spell_out(editor: Editor, node: Node) -> bool:
    shape = constant_shape(shape_of(node))
    if shape is None:
        return False
    with editor.before(node):
        editor.replace(node, editor.call(aten.reshape.default, node.args[0], shape))
    editor.graph.erase_node(node)
    return True


def _merge(editor: Editor, node: Node) -> bool:
    if not is_call(node, RESHAPES | PERMUTES) or not node.users:
        return False
    inner = node.args[0]
    if not isinstance(inner, Node):
        return False
    if is_call(node, RESHAPES) and is_call(inner, RESHAPES):
        return _merge_reshapes(editor, node, inner)
    if is_call(node, PERMUTES) and is_call(inner, PERMUTES):
        return _merge_permutes(editor, node, inner)
    return False


def _merge_reshapes(editor: Editor, node: Node, inner: Node) -> bool:
    source = inner.args[0]
    if not isinstance(source, Node):
        return False
    if same_shape(shape_of(node), shape_of(source)):
        editor.replace(node, source)
        return True
    shape = constant_shape(shape_of(node))
    if len(inner.users) > 1 or shape is None:
        return False
    with editor.before(node):
        editor.replace(node, editor.call(aten.reshape.default, source, shape))
    return True


def _merge_permutes(editor: Editor, node: Node, inner: Node) -> bool:
    source, first, second = inner.args[0], permutation(inner), permutation(node)
    if not isinstance(source, Node):
        return False
    merged = [first[axis] for axis in second]
    if merged == sorted(merged):
        editor.replace(node, source)
        return True
    if len(inner.users) > 1:
        return False
    with editor.before(node):
        editor.replace(node, editor.call(aten.permute.default, source, merged))
    return True


def permutation(node: Node) -> list[int]:
    """The axes of a permute, transpose or t: result axis i is input axis ``permutation(node)[i]``."""
    rank = node.meta["val"].ndim
    axes = list(range(rank))
    if node.target is aten.permute.default:
        return [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr,arg-type]
    if node.target is aten.transpose.int:
        left, right = (int(axis) % rank for axis in node.args[1:3])  # type: ignore[arg-type]
        axes[left], axes[right] = right, left
        return axes
    return axes[::-1]
