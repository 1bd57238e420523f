"""SiLU in integers: a sigmoid and a product, which are what integer runtimes have kernels for."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls
from edgevit.quant.levels import Level, Levels, level_of

aten = torch.ops.aten


def spell_out_silu(program: Program, levels: Levels) -> tuple[Program, dict[str, Level]]:
    """Replace every ``silu(x)`` at INTEGER, so that its two halves can be quantized.

    Result::

        x -> sigmoid -> mul by x

    The product bears the name of what it replaces, and the sigmoid one that follows from it: what is known
    of values by their names, of a nested Program's in its submodels, stays right.

    Args:
        program: a float program.
        levels: of its operations.

    Returns:
        The program, and the levels for it: both halves are INTEGER.
    """
    editor, result = Editor(program), dict(levels)
    found = [
        node for node in calls(editor.graph, [aten.silu.default]) if level_of(node, levels) == Level.INTEGER
    ]
    for node in found:
        source = node.args[0]
        if not isinstance(source, Node):
            raise TypeError(f"{node.format_node()} has no tensor to activate")
        with editor.before(node):
            gate = editor.graph.create_node(
                "call_function", aten.sigmoid.default, (source,), name=f"{node.name}_sigmoid"
            )
            editor.evaluate_again(gate)
            node.target, node.args, node.kwargs = aten.mul.Tensor, (source, gate), {}
            editor.evaluate_again(node)
        result[gate.name] = Level.INTEGER
    return (editor.finish("spell_out_silu", changed=len(found)) if found else program), result
