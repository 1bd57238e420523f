"""SiLU is a sigmoid and a product: what integer runtimes have kernels for."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls

aten = torch.ops.aten


def spell_out_silu(program: Program) -> Program:
    """Replace ``silu(x)``, which no integer runtime knows, so that its two halves can be quantized.

    Result::

        x -> sigmoid -> mul by x
    """
    editor = Editor(program)
    found = calls(editor.graph, [aten.silu.default])
    for node in found:
        source = node.args[0]
        if not isinstance(source, Node):
            raise TypeError(f"{node.format_node()} has no tensor to activate")
        with editor.before(node):
            gate = editor.call(aten.sigmoid.default, source)
            result = editor.call(aten.mul.Tensor, source, gate)
        editor.replace(node, result)
    return editor.finish("spell_out_silu", changed=len(found)) if found else program
