"""Write pools and batch norms as operators that torch's ONNX exporter translates as they are.

Whatever it cannot translate it decomposes, and for that it traces the whole graph anew. These two are all
that most vision models have of it.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls

aten = torch.ops.aten

# A private name, but what torch's own decomposition writes. Two of its results are empty.
_NORM_WITHOUT_TRAINING = aten._native_batch_norm_legit_no_training.default  # noqa: SLF001
_POOLS = {aten.adaptive_avg_pool1d.default: 1, aten.adaptive_avg_pool2d.default: 2}


def spell_out_for_onnx(program: Program) -> Program:
    """The program with torch's own decompositions of two operators in their place.

    Given::

        adaptive_avg_pool2d(x, [1, 1]); batch_norm(y, .., training=False, ..)

    Result::

        mean(x, [-2, -1], keepdim); getitem(_native_batch_norm_legit_no_training(y, ..), 0)

    Pools to more than one cell, and batch norms in training mode, are left alone.
    """
    editor = Editor(program)
    changed = sum(_pool_as_mean(editor, node) for node in calls(editor.graph, _POOLS))
    norms = calls(editor.graph, [aten.batch_norm.default])
    changed += sum(_norm_without_training(editor, node) for node in norms)
    return editor.finish("spell_out_for_onnx", changed=changed) if changed else program


def _pool_as_mean(editor: Editor, node: Node) -> bool:
    source, cells = node.args
    axes = _POOLS[node.target]  # type: ignore[index]
    if list(cells) != [1] * axes:  # type: ignore[arg-type]
        return False
    with editor.before(node):
        editor.replace(node, editor.call(aten.mean.dim, source, list(range(-axes, 0)), True))
    editor.graph.erase_node(node)
    return True


def _norm_without_training(editor: Editor, node: Node) -> bool:
    *tensors, training, momentum, epsilon, _ = node.args
    if training:
        return False
    with editor.before(node):
        results = editor.call(_NORM_WITHOUT_TRAINING, *tensors, momentum, epsilon)
        editor.replace(node, editor.call(operator.getitem, results, 0))
    editor.graph.erase_node(node)
    return True
