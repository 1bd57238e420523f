"""A quantized graph in the words that the converter understands.

It refuses integer constants, and loses the bounds of a grid that uses fewer than all integers of its type.
So weights are written as the numbers they stand for with a quantizer behind them, and such bounds as a
clamp of their own. Both are exact, and `edgevit.export.tflite.carried` finds the integers again in the file.
It also forgets the shape of a dequantizer that two operators read, once it has transposed it for the first:
each gets one of its own.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.export.quantized import DEQUANTIZE, DEQUANTIZE_STORED, QUANTIZE, decomposed
from edgevit.export.tflite.barriers import origins, raise_barriers
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, is_call
from edgevit.quant.dynamic import without_dynamic
from edgevit.quant.grids import along

aten = torch.ops.aten

_QUANTIZE_STORED = decomposed.quantize_per_channel.default


def spell_out_quantizers(program: Program) -> Program:
    """The program with no integer constants, no narrow grid, no shared dequantizer, no grids of tokens.

    Given::

        dequantize(int8 weight)        quantize(x, bounds -32 and 31)

    Result::

        dequantize(quantize(float32 weight))        quantize(clamp(dequantize(quantize(x))))

    all bounds being int8's: the inner quantizer saturates where an integer kernel does, and the converter
    makes the clamp one of integers.
    """
    editor = Editor(program)
    # Their kernels quantize tokens by themselves (`edgevit.export.tflite.carried`).
    tokens = without_dynamic(editor)
    weights = calls(editor.graph, {DEQUANTIZE_STORED})
    for node in weights:
        _spell_out_weight(editor, node)
    quantizers = calls(editor.graph, {QUANTIZE})
    narrow = [node for node in quantizers if _is_narrow(node)]
    # Before any is changed: what is within bounds is seen by the quantizer before it.
    exceeding = [node for node in narrow if not _is_within(node)]
    for node in narrow:
        _spell_out_bounds(editor, node, clamp=node in exceeding)
    barriers = raise_barriers(editor)
    for node in calls(editor.graph, {DEQUANTIZE}):
        _give_one_to_each(editor, node)
    return editor.finish(
        "spell_out_quantizers", weights=len(weights), narrow=len(narrow), barriers=barriers, tokens=tokens
    )


def _spell_out_weight(editor: Editor, node: Node) -> None:
    stored, scales, _, axis, *limits = node.args
    with editor.before(node):
        path = editor.path(stored)  # type: ignore[arg-type]
        real = editor.add_tensor(f"{path}_real", _real(editor, node))
        if limits[-1] != torch.int32:
            channels = real.meta["val"].shape[axis]
            zeros = editor.add_tensor(f"{path}_zero", torch.zeros(channels, dtype=torch.int64))
            integers = editor.call(_QUANTIZE_STORED, real, scales, zeros, axis, *limits)
            real = editor.call(DEQUANTIZE_STORED, integers, scales, zeros, axis, *limits)
    editor.replace(node, real)


def _real(editor: Editor, node: Node) -> torch.Tensor:
    """What a stored constant stands for, float32."""
    stored, scales = editor.value(node.args[0]), editor.value(node.args[1])
    if stored is None or scales is None:
        raise TypeError(f"{node.format_node()} reads no constant")
    return stored.float() * along(scales, int(node.args[3]), stored.dim())  # type: ignore[arg-type]


def _is_narrow(node: Node) -> bool:
    *_, low, high, dtype = node.args
    limits = torch.iinfo(dtype)  # type: ignore[arg-type]
    # A symmetric grid leaves the type's lowest integer out, which a kernel gives for what lies below it.
    return (low, high) not in {(limits.min, limits.max), (-limits.max, limits.max)}


def _is_within(node: Node) -> bool:
    """Whether nothing but integers of the same grid, moved about, can come to a quantizer."""
    found = origins(node.all_input_nodes[0])
    return all(is_call(origin, {DEQUANTIZE}) and origin.args[1:] == node.args[1:] for origin in found)


def _spell_out_bounds(editor: Editor, node: Node, *, clamp: bool) -> None:
    source, scale, zero_point, low, high, dtype = node.args
    limits = torch.iinfo(dtype)  # type: ignore[arg-type]
    whole = (scale, zero_point, limits.min, limits.max, dtype)
    if clamp:
        with editor.before(node):
            wide = editor.call(DEQUANTIZE, editor.call(QUANTIZE, source, *whole), *whole)
            bounds = [scale * (bound - zero_point) for bound in (low, high)]  # type: ignore[operator]
            source = editor.call(aten.clamp.default, wide, *bounds)
    node.args = (source, *whole)
    for user in list(node.users):
        user.args = (node, *whole)


def _give_one_to_each(editor: Editor, node: Node) -> None:
    for user in list(node.users)[1:]:
        with editor.before(user):
            user.replace_input_with(node, editor.call(DEQUANTIZE, *node.args))
