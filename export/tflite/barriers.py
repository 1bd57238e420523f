"""Keep apart what is quantized in more than one way.

Of an operator whose result is brought to one grid for one reader and to another for the next, the converter
makes an integer kernel on one of the grids, and lets the other reader have that: rounded twice, or wrongly.
It hands quantizers up through joins, and folds every arithmetic that changes nothing. Of what reads integers
of one type and gives those of another it makes a kernel that there is not. What is multiplied before or
behind a float layer it multiplies into the weight, which then is not the integers any more. So something that
no network has, the ceiling of a cosine, is put behind such an operator, and taken out of what was converted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Node

from edgevit.export.quantized import DEQUANTIZE, DEQUANTIZE_STORED, QUANTIZE
from edgevit.export.tflite.kernels import grid_of, grids_read
from edgevit.export.tflite.model import operator_name, prune
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, is_call
from edgevit.quant.operators import FUSED_ACTIVATIONS, LAYERS, MOVES, input_of, is_activation, weight_of

aten = torch.ops.aten

# The converter makes kernels of these that give integers on the grid that they read, whatever is asked for.
_KEEP_GRID = frozenset(
    {
        aten.cat.default,
        aten.stack.default,
        aten.where.self,
        aten.maximum.default,
        aten.minimum.default,
        aten.upsample_nearest2d.vec,
        aten.roll.default,
        aten.flip.default,
        aten.repeat.default,
        aten.tile.default,
        aten.index_select.default,
        aten.index.Tensor,
        aten.gather.default,
        aten.amax.default,
        aten.amin.default,
    }
)
# Of these, too, and what they give are other numbers than they read.
_ROUND = frozenset({aten.upsample_bilinear2d.vec, aten.constant_pad_nd.default, aten.pad.default})
_ARITHMETIC = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})


def raise_barriers(editor: Editor) -> int:
    """Put barriers where the converter would make other integers, or integers of floats.

    That is behind operators whose result is read on several grids, where the type changes, behind what takes
    a float constant, and on both sides of joins of 16-bit integers, of what moves integers of one grid to
    another, or joins them with floats, and of float layers whose weights are integers.

    Returns:
        How many were put.
    """
    barriers: set[Node] = set()
    joins = [node for node in calls(editor.graph, _KEEP_GRID | _ROUND) if _is_wide(node) or _is_torn(node)]
    for join in joins:
        computed = [
            node for node in join.all_input_nodes if node.op == "call_function" and is_activation(node)
        ]
        barriers.update([_put(editor, source, [join]) for source in computed])
    for node in joins + [node for node in editor.graph.nodes if _is_read_differently(node)]:
        barriers.add(_put(editor, node, [user for user in node.users if user.op != "output"]))
    for node in calls(editor.graph, {QUANTIZE}):
        if _changes_type(node) or _multiplies_floats(node):
            barriers.add(_put(editor, node.all_input_nodes[0], [node]))
    for node, users in _ends_of_layers(editor):
        barriers.add(_put(editor, node, users))
    return len(barriers)


def _ends_of_layers(editor: Editor) -> list[tuple[Node, list[Node]]]:
    """Floats that layers with integer weights read and give, each with some of those that read them."""
    found = []
    for node in calls(editor.graph, LAYERS):
        if not is_call(weight_of(node), {DEQUANTIZE_STORED}):
            continue
        source = input_of(node)
        if not is_call(source, {DEQUANTIZE}) and source.op == "call_function":
            found.append((source, [node]))
        readers = [user for user in node.users if user.op != "output"]
        if readers and not any(is_call(user, {QUANTIZE} | FUSED_ACTIVATIONS) for user in readers):
            found.append((node, readers))
    return found


def _put(editor: Editor, node: Node, users: list[Node]) -> Node:
    """Let users read a node behind its barrier, of which it has one: the converter makes one of two alike."""
    barrier = _barrier_behind(node)
    if barrier is None:
        with editor.before(node.next):
            barrier = editor.call(aten.ceil.default, editor.call(aten.cos.default, node))
    for user in users:
        # Among the users of a node that has its barrier already is the barrier itself.
        if user not in barrier.all_input_nodes:
            user.replace_input_with(node, barrier)
    return barrier


def _barrier_behind(node: Node) -> Node | None:
    cosines = [user for user in node.users if is_call(user, {aten.cos.default})]
    ends = [end for cosine in cosines for end in cosine.users if is_call(end, {aten.ceil.default})]
    return ends[0] if ends else None


def _changes_type(quantizer: Node) -> bool:
    """Whether what is quantized are integers of another type, or was computed from such.

    A number that 16-bit integers are multiplied with, or added to, is such: the converter gives it 8.
    """
    (source,) = quantizer.all_input_nodes
    made = origins(source, MOVES | FUSED_ACTIVATIONS)
    read = [origin for node in made for value in node.all_input_nodes for origin in origins(value, MOVES)]
    others = [node for node in made + read if is_call(node, {DEQUANTIZE})]
    return any(node.args[-1] != quantizer.args[-1] for node in others) or (
        quantizer.args[-1] == torch.int16 and any(_takes_number(node) for node in made)
    )


def _multiplies_floats(quantizer: Node) -> bool:
    """Whether what is quantized was computed of integers and a float constant, for which there is no kernel.

    The converter would quantize the constant by itself.
    """
    made = origins(quantizer.all_input_nodes[0], MOVES | FUSED_ACTIVATIONS)
    return any(
        is_call(node, _ARITHMETIC)
        and any(value.op == "placeholder" for value in node.all_input_nodes)
        and any(
            is_call(origin, {DEQUANTIZE})
            for value in node.all_input_nodes
            for origin in origins(value, MOVES)
        )
        for node in made
    )


def _takes_number(node: Node) -> bool:
    return is_call(node, _ARITHMETIC) and any(isinstance(value, int | float) for value in node.args)


def origins(node: Node, moves: Collection[object] = MOVES) -> list[Node]:
    """The values that a chain of moves moves."""
    if not is_call(node, moves):
        return [node]
    return [origin for source in node.all_input_nodes for origin in origins(source, moves)]


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


def _is_torn(node: Node) -> bool:
    """Whether integers of its kernel would be others than the Program's: of a second grid, or of floats."""
    values = [source for source in node.all_input_nodes if is_activation(source)]
    read = {
        grid_of(origin) if is_call(origin, {DEQUANTIZE}) else None
        for value in values
        for origin in origins(value)
    }
    given = grids_read(node)
    if is_call(node, _ROUND):
        return read | given != {None} and not (read == given and len(read) == 1)
    return (len(read) > 1) or (None not in read and not given - {None} <= read)


def _is_wide(join: Node) -> bool:
    """Whether a join is of 16-bit integers: there are kernels, but the converter has no such operator.

    On floats it comes to the same, for all have one grid.
    """
    return is_call(join, {aten.cat.default}) and any(
        is_call(user, {QUANTIZE}) and user.args[-1] == torch.int16 for user in join.users
    )
