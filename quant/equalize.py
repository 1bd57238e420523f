"""Exact pre-steps: the float model computes the same, and its activations suit one scale per tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor
from edgevit.quant.observation import HEADROOM
from edgevit.quant.operators import bias_of, channel_dim, is_layer, weight_of
from edgevit.quant.smooth import multiply_constant

aten = torch.ops.aten

# A channel is never stretched further: what it holds is noise beside the others.
_LARGEST_STRETCH = 2.0**10


def equalize_outputs(program: Program, layers: Collection[str], peaks: Mapping[str, torch.Tensor]) -> Program:
    """Give every output channel of some layers the same range, and undo it right behind.

    Given::

        linear(x, W, b) -> y

    Result::

        linear(x, W / a, b / a) -> z, mul(z, a) -> y

    with ``a[c] = peak[c] / max(peak)``, and some headroom. z has one range for all its channels, so that
    one scale for the tensor is as good as one for each channel, which TFLite and Core ML do not know. The
    weight's integers stay what they were, its scales take up ``1 / a`` (per-channel alpha as in HyQ's
    QADS, put to the output instead of into the next layer, so that anything may follow).

    Args:
        program: what to change.
        layers: names of layers with a bias.
        peaks: largest absolute value of each output channel, by layer.
    """
    editor = Editor(program)
    for node in list(editor.graph.nodes):
        if node.name in layers:
            _equalize(editor, node, stretch(peaks[node.name]))
    return editor.finish("equalize_outputs", layers=len(layers))


def stretch(peaks: torch.Tensor) -> torch.Tensor:
    """Each channel's peak relative to the largest, with headroom, float32 in (0, 1]."""
    largest = peaks.max().clamp_min(torch.finfo(torch.float32).tiny)
    return (HEADROOM * peaks / largest).clamp(1 / _LARGEST_STRETCH, 1.0)


def can_equalize(node: Node) -> bool:
    """Whether `equalize_outputs` can change a layer, and should.

    Not the classifier: its channels are classes, and calibration images need not show each of them.
    """
    returned = any(user.op == "output" for user in node.users)
    return is_layer(node) and bias_of(node) is not None and not returned


def _equalize(editor: Editor, node: Node, alpha: torch.Tensor) -> None:
    weight, bias = weight_of(node), bias_of(node)
    if bias is None:
        raise TypeError(f"{node.format_node()} has no bias")
    users = list(node.users)
    multiply_constant(editor, node, weight, 1 / alpha.reshape(-1, *[1] * (weight.meta["val"].dim() - 1)))
    multiply_constant(editor, node, bias, 1 / alpha)
    rank = node.meta["val"].dim()
    back = alpha.reshape(-1, *[1] * (rank - 2)) if channel_dim(node, rank) == 1 else alpha
    with editor.before(node.next):
        factor = editor.add_tensor(f"{editor.path(weight)}_alpha", back)
        restored = editor.call(aten.mul.Tensor, node, factor)
    for user in users:
        user.replace_input_with(node, restored)
