"""Keep float what is quantized in more than one way.

Of an operator whose result is brought to one grid for one reader and to another for the next, the converter
makes an integer kernel on one of the grids, and lets the other reader have that: rounded twice, or wrongly.
It hands quantizers up through joins, and folds every arithmetic that changes nothing. So something that no
network has, the ceiling of a cosine, is put behind such an operator, and taken out of what was converted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from edgevit.export.quantized import DEQUANTIZE, QUANTIZE
from edgevit.export.tflite.kernels import grids_read
from edgevit.export.tflite.model import operator_name, prune
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, is_call
from edgevit.quant.operators import FUSED_ACTIVATIONS, MOVES, is_activation

aten = torch.ops.aten


def raise_barriers(editor: Editor) -> int:
    """Put a barrier behind every operator whose result is read on several grids; returns how many."""
    found = [node for node in editor.graph.nodes if _is_read_differently(node)]
    for node in found:
        users = [user for user in node.users if user.op != "output"]
        with editor.before(node.next):
            barrier = editor.call(aten.ceil.default, editor.call(aten.cos.default, node))
        for user in users:
            user.replace_input_with(node, barrier)
    return len(found)


def remove_barriers(model: Any, program: Program) -> None:
    """Let the readers of a barrier read what it was put behind, in place.

    Args:
        model: the ``ModelT``.
        program: what it was converted from, with its barriers.

    Raises:
        AssertionError: when not as many are there as were put.
    """
    ends = calls(program.graph, {aten.ceil.default})
    count = sum(is_call(node.all_input_nodes[0], {aten.cos.default}) for node in ends)
    if not count:
        return
    (graph,) = model.subgraphs
    cosines: dict[int, int] = {}
    behind: dict[int, int] = {}
    for operator in graph.operators:
        operator.inputs = [behind.get(int(tensor), int(tensor)) for tensor in operator.inputs]
        source = operator.inputs[0] if operator.inputs else -1
        target = int(operator.outputs[0])
        if operator_name(model, operator) == "COS":
            cosines[target] = source
        elif operator_name(model, operator) == "CEIL" and source in cosines:
            behind[target] = cosines[source]
    if len(behind) != count:
        raise AssertionError(f"{count} barriers were put, and {len(behind)} are there")
    removed = behind.keys() | {tensor for tensor in cosines if cosines[tensor] in behind.values()}
    graph.operators = [operator for operator in graph.operators if int(operator.outputs[0]) not in removed]
    prune(model)


def _is_read_differently(node: Node) -> bool:
    if node.op != "call_function" or not is_activation(node) or is_call(node, MOVES | {QUANTIZE, DEQUANTIZE}):
        return False
    users = list(node.users)
    if len(users) == 1 and is_call(users[0], FUSED_ACTIVATIONS):
        return False
    return len(grids_read(node) - {None}) > 1
