"""Attention over (batch, tokens, width) becomes attention of one head, which every converter knows."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, shape_of

aten = torch.ops.aten


def attention_rank(program: Program) -> Program:
    """Give ``scaled_dot_product_attention`` of three axes a head axis of one, and take it off the result.

    Given::

        scaled_dot_product_attention(q: (b, t, w), k: (b, s, w), v: (b, s, u), mask: (b, t, s))

    Result::

        q, k, v and mask -> unsqueeze(1) -> scaled_dot_product_attention -> squeeze(1)

    torch's ONNX exporter takes four axes only. A mask of two axes, the same for every image, needs no
    head axis and is left as it is; so is attention whose inputs differ in their number of axes.
    """
    editor = Editor(program)
    found = calls(editor.graph, [aten.scaled_dot_product_attention.default])
    changed = sum(_rewrite(editor, node) for node in found)
    return editor.finish("attention_rank", changed=changed) if changed else program


def _rewrite(editor: Editor, node: Node) -> bool:
    inputs = list(node.args)
    if not all(_rank(value) == 3 for value in inputs[:3]):
        return False
    with editor.before(node):
        for place, value in enumerate(inputs[:4]):
            if _rank(value) == 3:
                inputs[place] = editor.call(aten.unsqueeze.default, value, 1)
        attended = editor.call(node.target, *inputs, **node.kwargs)
        result = editor.call(aten.squeeze.dim, attended, 1)
    editor.replace(node, result)
    editor.graph.erase_node(node)
    return True


def _rank(value: object) -> int | None:
    return len(shape_of(value)) if isinstance(value, Node) else None
