"""Operators that give back what they were given are dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import in_place_calls
from edgevit.graph.rewriting import Editor, calls, is_call, same_shape, shape_of

aten = torch.ops.aten

# The result is the input's own memory whenever the shape is the same.
_VIEWS = {
    aten.view.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.view_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.expand.default,
    aten.expand_as.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.alias.default,
    aten.detach.default,
}
_COPIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten.type_as.default,
    aten.lift_fresh_copy.default,
}
_ASSERTION = aten._assert_tensor_metadata.default  # noqa: SLF001 - its public name
_DROPOUTS = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
_MOVES = {aten.pad.default, aten.roll.default}
# Operator, and the second argument with which it changes nothing.
_NEUTRAL: dict[Any, int] = {
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.add.Scalar: 0,
    aten.sub.Scalar: 0,
    aten.mul.Scalar: 1,
    aten.div.Scalar: 1,
    aten.pow.Tensor_Scalar: 1,
}


def drop_no_ops(program: Program) -> Program:
    """Drop dropout, reshapes and expands to the same shape, copies, whole slices, ``+ 0``, ``* 1``.

    The tracer's assertions on dtype and device go too: shapes and types were worked out when it traced.

    A copy is dropped only where no operator of the graph writes in place (see `make_functional`): then
    nothing can tell a tensor from its copy but a ``view``, which becomes the ``reshape`` that takes any
    strides. It does so where no copy was dropped as well: an exporter that decomposes attention makes
    strides of its own, on which transformers' Swin fails to be written as ONNX.
    """
    editor = Editor(program)
    may_drop_copies = not in_place_calls(editor.graph)
    assertions = calls(editor.graph, [_ASSERTION])
    for node in assertions:
        editor.graph.erase_node(node)
    changed = len(assertions)
    for node in list(editor.graph.nodes):
        if _is_no_op(editor, node, may_drop_copies=may_drop_copies):
            editor.replace(node, node.args[0])
            editor.graph.erase_node(node)
            changed += 1
    if may_drop_copies:
        changed += _accept_any_strides(editor.graph)
    return editor.finish("drop_no_ops", changed=changed) if changed else program


def _is_no_op(editor: Editor, node: Node, *, may_drop_copies: bool) -> bool:
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, Node) or not _same_kind(node, source):
        return False
    if source.op == "placeholder" and any(user.op == "output" for user in node.users):
        # An exported graph hands out no input or weight itself.
        return False
    if node.target in _VIEWS or _is_whole_slice(node):
        return True
    if node.target in _DROPOUTS:
        return bool(node.args[1] == 0 or node.args[2] is False)
    return may_drop_copies and (node.target in _COPIES or _is_neutral(editor, node) or _moves_nothing(node))


def _same_kind(node: Node, source: Node) -> bool:
    """Whether both are one tensor each, of the same shape, dtype and device."""
    result, given = node.meta.get("val"), source.meta.get("val")
    return (
        isinstance(result, torch.Tensor)
        and isinstance(given, torch.Tensor)
        and result.dtype == given.dtype
        and result.device == given.device
        and same_shape(shape_of(node), shape_of(source))
    )


def _is_whole_slice(node: Node) -> bool:
    """A slice with a step of 1 that is as long as what it slices."""
    return node.target is aten.slice.Tensor and bool(len(node.args) < 5 or node.args[4] == 1)


def _moves_nothing(node: Node) -> bool:
    """A pad by nothing, or a roll by nothing."""
    amounts: Any = node.args[1] if is_call(node, _MOVES) else [1]
    return all(amount == 0 for amount in amounts)


def _is_neutral(editor: Editor, node: Node) -> bool:
    if not is_call(node, _NEUTRAL) or node.kwargs:
        return False
    neutral, operand = _NEUTRAL[node.target], node.args[1]
    if isinstance(operand, int | float):
        return bool(operand == neutral)
    if not isinstance(operand, Node) or editor.is_parameter(operand):
        return False
    constant = editor.value(operand)
    return constant is not None and bool((constant == neutral).all())


def _accept_any_strides(graph: Graph) -> int:
    views = calls(graph, [aten.view.default])
    for node in views:
        node.target = aten.reshape.default
    return len(views)
