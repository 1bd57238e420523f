"""A group norm of one group, in the form that a target computes best.

MobileViTv2 and EfficientFormerV2 normalise so: over channels and grid of an image together. Its
decomposition in torch flattens the tensor and brings it back, and so ties it to one memory layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, shape_of

aten = torch.ops.aten

# Of group_norm(input, groups, weight, bias, eps, cudnn_enabled).
_DEFAULTS = (None, 1, None, None, 1e-5, True)

# Of a node and an epsilon, the same normalised.
_Normalise = Callable[[Editor, Node, float], Node]


def spell_out_group_norm(program: Program) -> Program:
    """Write ``group_norm(x, 1, weight, bias, eps)`` as arithmetic on the tensor's own dimensions.

    Result, for an x of (batch, channels, height, width)::

        centred = x - mean(x, [1, 2, 3])
        scaled = centred * rsqrt(mean(centred * centred, [1, 2, 3]) + eps)
        y = scaled * weight[None, :, None, None] + bias[None, :, None, None]

    A converter that computes channels last then has nothing to transpose.
    """
    return _rewritten(program, "spell_out_group_norm", _arithmetic)


def group_norm_to_layer_norm(program: Program) -> Program:
    """Replace ``group_norm(x, 1, weight, bias, eps)`` by a layer norm, for targets with a kernel for it.

    Result::

        scaled = layer_norm(x, [channels, height, width], eps)
        y = scaled * weight[None, :, None, None] + bias[None, :, None, None]

    Where the device computes in half precision, the kernel rounds once and its decomposition six times.
    """
    return _rewritten(program, "group_norm_to_layer_norm", _layer_norm)


def _rewritten(program: Program, name: str, normalise: _Normalise) -> Program:
    editor = Editor(program)
    found = [node for node in calls(editor.graph, [aten.group_norm.default]) if _has_one_group(node)]
    for node in found:
        arguments: list[Any] = [*node.args, *_DEFAULTS[len(node.args) :]]
        source, _, weight, bias, eps = arguments[:5]
        with editor.before(node):
            result = normalise(editor, source, eps)
            for combine, value in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
                if value is not None:
                    per_channel = [1, -1, *[1] * (len(shape_of(node)) - 2)]
                    shaped = editor.call(aten.reshape.default, value, per_channel)
                    result = editor.call(combine, result, shaped)
        editor.replace(node, result)
    return editor.finish(name, changed=len(found)) if found else program


def _has_one_group(node: Node) -> bool:
    return bool(node.args[1] == 1 and not node.kwargs)


def _arithmetic(editor: Editor, source: Node, eps: float) -> Node:
    inner = list(range(1, len(shape_of(source))))
    centred = editor.call(aten.sub.Tensor, source, editor.call(aten.mean.dim, source, inner, True))
    squared = editor.call(aten.mul.Tensor, centred, centred)
    variance = editor.call(aten.add.Tensor, editor.call(aten.mean.dim, squared, inner, True), eps)
    return editor.call(aten.mul.Tensor, centred, editor.call(aten.rsqrt.default, variance))


def _layer_norm(editor: Editor, source: Node, eps: float) -> Node:
    sizes = [int(size) for size in shape_of(source)[1:]]
    return editor.call(aten.layer_norm.default, source, sizes, None, None, eps)
