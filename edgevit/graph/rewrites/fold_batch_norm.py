"""Batch norm in evaluation is one scale and one shift per channel: the neighbouring layer takes them over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.channels import channel_source
from edgevit.graph.rewriting import Editor, calls, is_call

aten = torch.ops.aten

_CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
}
_LAYERS = {aten.linear.default, *_CONVOLUTIONS}


@dataclass(frozen=True)
class _Affine:
    """What a batch norm does to each channel: ``x * scale + shift``, both (channels,) float64."""

    scale: torch.Tensor
    shift: torch.Tensor


def fold_batch_norm(program: Program) -> Program:
    """Fold batch norms into the convolution or linear layer before them, or else the one after.

    With s = weight / sqrt(variance + eps) and t = bias - mean s, per channel (Ioffe and Szegedy, arXiv
    1502.03167, section 3.1):

        bn(conv(x; W, b))   = conv(x; W s, b s + t)           s along the output channels
        linear(bn(x); W, b) = linear(x; W s, b + W t)         s along the input channels

    Reshapes and permutes in between are seen through as long as they keep the channels whole. A batch norm
    stays where the layer before it, or the batch norm itself for the layer after, has other readers; where
    it works in training mode; and before a convolution that pads, whose zeros it would have shifted.
    The arithmetic is done in float64.
    """
    editor = Editor(program)
    norms = calls(editor.graph, [aten.batch_norm.default])
    changed = sum(_fold_before(editor, norm) or _fold_after(editor, norm) for norm in norms)
    return editor.finish("fold_batch_norm", changed=changed) if changed else program


def _fold_before(editor: Editor, norm: Node) -> bool:
    """Into the layer that makes what the batch norm reads."""
    affine = _affine(editor, norm)
    source = norm.args[0]
    if affine is None or not isinstance(source, Node):
        return False
    layer, axis = channel_source(source, 1)
    if len(layer.users) != 1 or not _is_layer(editor, layer) or axis != _channel_axis(layer):
        return False
    weight, bias = _weight_and_bias(editor, layer)
    columns = (-1,) + (1,) * (weight.ndim - 1)
    _set_weights(editor, layer, weight * affine.scale.view(columns), bias * affine.scale + affine.shift)
    editor.replace(norm, source)
    editor.graph.erase_node(norm)
    return True


def _fold_after(editor: Editor, norm: Node) -> bool:
    """Into the layer that reads what the batch norm makes, its only reader."""
    affine = _affine(editor, norm)
    layer = _reader(norm)
    if affine is None or layer is None or not _is_layer(editor, layer):
        return False
    entry = layer.args[0]
    if not isinstance(entry, Node) or len(entry.users) != 1:
        return False
    found, axis = channel_source(entry, _channel_axis(layer))
    if found is not norm or axis != 1 or (_pads(layer) and bool(affine.shift.any())):
        return False
    weight, bias = _weight_and_bias(editor, layer)
    # Groups: a filter sees only its own group's channels, its weight's second axis.
    groups = len(affine.scale) // weight.shape[1]
    filters = weight.view(groups, -1, *weight.shape[1:])
    per_filter = (groups, 1, -1) + (1,) * (weight.ndim - 2)
    scale, shift = affine.scale.view(per_filter), affine.shift.view(per_filter)
    moved = (filters * shift).flatten(2).sum(dim=2).flatten()
    _set_weights(editor, layer, (filters * scale).view(weight.shape), bias + moved)
    editor.replace(norm, norm.all_input_nodes[0])
    editor.graph.erase_node(norm)
    return True


def _affine(editor: Editor, norm: Node) -> _Affine | None:
    """None in training mode, or where its statistics are not stored tensors."""
    arguments: tuple[Any, ...] = norm.args
    _, *nodes, training, _, epsilon, _ = arguments
    values = [editor.value(node) for node in nodes]
    weight, bias, mean, variance = (None if value is None else value.double() for value in values)
    unknown = any(value is None for node, value in zip(nodes, values, strict=True) if node is not None)
    if training or unknown or mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance + epsilon) if weight is None else weight * torch.rsqrt(variance + epsilon)
    return _Affine(scale, -mean * scale if bias is None else bias - mean * scale)


def _reader(norm: Node) -> Node | None:
    """The first convolution or linear layer down a path of only readers."""
    node = norm
    while len(node.users) == 1:
        node = next(iter(node.users))
        if is_call(node, _LAYERS):
            return node
    return None


def _is_layer(editor: Editor, node: Node) -> bool:
    """Whether it is a convolution or linear layer whose weights are stored tensors."""
    if not is_call(node, _LAYERS) or node.kwargs:
        return False
    weight, bias = _arguments(node)
    value = editor.value(weight)
    # A convolution of one image without a batch has its channels elsewhere.
    is_batched = node.target is aten.linear.default or (
        value is not None and node.meta["val"].ndim == value.ndim
    )
    return value is not None and is_batched and (bias is None or editor.value(bias) is not None)


def _channel_axis(layer: Node) -> int:
    """The axis of the channels in what the layer reads and makes."""
    rank: int = layer.meta["val"].ndim
    return rank - 1 if layer.target is aten.linear.default else 1


def _pads(layer: Node) -> bool:
    if not is_call(layer, _CONVOLUTIONS) or len(layer.args) < 5:
        return False
    padding: Any = layer.args[4]
    return padding != "valid" if isinstance(padding, str) else any(padding)


def _arguments(layer: Node) -> tuple[Node, Node | None]:
    arguments: tuple[Any, ...] = layer.args
    return arguments[1], arguments[2] if len(arguments) > 2 else None


def _weight_and_bias(editor: Editor, layer: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float64, the bias zeros where there is none."""
    weight, bias = (editor.value(node) for node in _arguments(layer))
    if weight is None:
        raise AssertionError(f"{layer.format_node()} is no layer with stored weights")
    weight = weight.double()
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias.double()


def _set_weights(editor: Editor, layer: Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    old_weight, old_bias = _arguments(layer)
    dtype = old_weight.meta["val"].dtype
    new_weight = editor.with_value(old_weight, layer, weight.to(dtype))
    if old_bias is None:
        name = editor.path(old_weight).removesuffix("weight").rstrip(".")
        new_bias = editor.add_tensor(f"{name}.bias" if name else "bias", bias.to(dtype), parameter=True)
    else:
        new_bias = editor.with_value(old_bias, layer, bias.to(dtype))
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
