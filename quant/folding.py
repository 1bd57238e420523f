"""Factors of channels go back into layers that stay float after all: there they only cost time."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls
from edgevit.quant.levels import Level, Levels, level_of, needs_grid
from edgevit.quant.operators import (
    bias_of,
    by_input_channel,
    channel_dim,
    groups_of,
    input_of,
    is_layer,
    weight_of,
)
from edgevit.quant.smooth import multiply_constant

aten = torch.ops.aten


def fold_factors(program: Program, levels: Levels) -> Program:
    """Let float layers take up multiplications by one constant for each channel, before or behind them.

    Smoothing and equalization put such a multiplication beside layers that are to be quantized, and the
    model itself may have some. Given a float layer::

        mul(x, s) -> linear(W, b)        linear(W, b) -> mul(y, s)

    Result::

        x -> linear(W s, b)              linear(s W, s b) -> y

    Where a layer with integers, or anything else, reads the same value, it stays.
    """
    editor, folded = Editor(program), 0
    # Of two in a row the one beside the layer goes first.
    while any(_fold(editor, product, levels) for product in calls(editor.graph, {aten.mul.Tensor})):
        folded += 1
    return editor.finish("fold_factors", multiplications=folded) if folded else program


def _fold(editor: Editor, product: Node, levels: Levels) -> bool:
    return level_of(product, levels) == Level.FLOAT and (
        _into_readers(editor, product, levels) or _into_source(editor, product, levels)
    )


def _into_readers(editor: Editor, product: Node, levels: Levels) -> bool:
    """Into all layers that read the product."""
    if not product.users or not all(_is_float(user, levels) for user in product.users):
        return False
    dims = {channel_dim(layer, product.meta["val"].dim()) for layer in product.users}
    factor = _factor(editor, product, dims.pop()) if len(dims) == 1 else None
    if factor is None or any(input_of(layer) is not product for layer in product.users):
        return False
    for layer in list(product.users):
        weight = editor.stored(weight_of(layer))
        multiply_constant(editor, layer, weight_of(layer), by_input_channel(factor, weight, groups_of(layer)))
        layer.replace_input_with(product, product.all_input_nodes[0])
    editor.graph.erase_node(product)
    return True


def _into_source(editor: Editor, product: Node, levels: Levels) -> bool:
    """Into the layer whose result is multiplied, and read by nothing else."""
    layer = product.args[0]
    if not isinstance(layer, Node) or not _is_float(layer, levels) or len(layer.users) > 1:
        return False
    factor = _factor(editor, product, channel_dim(layer, product.meta["val"].dim()))
    if factor is None or needs_grid(product, levels):
        return False
    weight, bias = weight_of(layer), bias_of(layer)
    multiply_constant(editor, layer, weight, factor.reshape(-1, *[1] * (weight.meta["val"].dim() - 1)))
    if bias is not None:
        multiply_constant(editor, layer, bias, factor)
    editor.replace(product, layer)
    editor.graph.erase_node(product)
    return True


def _is_float(node: Node, levels: Levels) -> bool:
    return is_layer(node) and level_of(node, levels) == Level.FLOAT


def _factor(editor: Editor, product: Node, dim: int) -> torch.Tensor | None:
    """(channels,): the constant that is multiplied by, where it has one number for each channel.

    Args:
        editor: of the graph.
        product: a multiplication.
        dim: of the channels, in its result.
    """
    value = editor.value(product.args[1])
    result = product.meta["val"]
    dim %= result.dim()
    if value is None or value.dim() > result.dim() or product.args[0] is product.args[1]:
        return None
    whole = value.reshape([1] * (result.dim() - value.dim()) + list(value.shape))
    if whole.numel() != whole.shape[dim] or whole.shape[dim] != result.shape[dim]:
        return None
    return whole.flatten()
