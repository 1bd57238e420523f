"""A product with a stored matrix is a linear layer."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls

aten = torch.ops.aten


def matmul_to_linear(program: Program) -> Program:
    """Let a layer multiply by what is stored.

    Given (SwiftFormer's additive attention, arXiv 2303.15446, section 3.2)::

        x (batch, tokens, in) -> matmul(parameter (in, out))

    Result::

        x (batch, tokens, in) -> linear(parameter (out, in))

    Converters make one of it anyhow, and what is quantized has the grids of a layer then: a scale for each
    output channel, and no zero point.
    """
    editor = Editor(program)
    products = [node for node in calls(editor.graph, {aten.matmul.default}) if _is_by_stored(editor, node)]
    for node in products:
        source, matrix = node.all_input_nodes
        turned = editor.stored(matrix).t().contiguous()
        with editor.before(node):
            weight = editor.add_tensor(editor.path(matrix), turned, parameter=editor.is_parameter(matrix))
            editor.replace(node, editor.call(aten.linear.default, source, weight))
    return editor.finish("matmul_to_linear", changed=len(products)) if products else program


def _is_by_stored(editor: Editor, node: Node) -> bool:
    source, matrix = node.args
    value = editor.value(matrix)
    return (
        value is not None
        and value.dim() == 2
        and isinstance(source, Node)
        and editor.value(source) is None
        and source.meta["val"].dim() > 1
    )
