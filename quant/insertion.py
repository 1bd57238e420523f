"""Quantizers in the graph: the standard quantize / dequantize pairs of PyTorch, where levels ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

# Importing it declares torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls
from edgevit.quant.grids import ActivationGrid, QuantizedWeight, quantize_bias, weight_limit
from edgevit.quant.levels import Level, Levels, gives_integers, is_read_as_integer, level_of
from edgevit.quant.operators import bias_of, input_of, is_layer, weight_of

decomposed = torch.ops.quantized_decomposed

_INT32 = torch.iinfo(torch.int32)


@dataclass(frozen=True)
class Quantization:
    """Everything that quantization decides about a graph.

    Attributes:
        levels: of operations, by node name.
        activations: the grid of every value that `edgevit.quant.levels.groups` lists, by node name.
        weights: of every layer at level WEIGHTS or above, by the layer's node name.
        biases: float32 (channels,) in place of the layer's own, where one was corrected or learned.
    """

    levels: Levels
    activations: Mapping[str, ActivationGrid]
    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, torch.Tensor] = field(default_factory=dict)


def is_quantized(program: Program) -> bool:
    """Whether the graph holds quantizers."""
    return bool(
        calls(
            program.graph,
            [decomposed.quantize_per_tensor.default, decomposed.dequantize_per_channel.default],
        )
    )


def insert_quantizers(program: Program, quantization: Quantization, name: str = "quantize") -> Program:
    """The program that computes what integer kernels compute.

    Given::

        x -> linear(weight, bias) -> y

    Result, at level INTEGER (at INPUTS the last pair is absent)::

        x -> quantize -> dequantize -> linear(dequantize(int8 weight), dequantize(int32 bias))
          -> quantize -> dequantize -> y

    Args:
        program: a float program.
        quantization: made for this very graph.
        name: of the card's step.
    """
    editor = Editor(program)
    for node in list(editor.graph.nodes):
        if is_layer(node) and node.name in quantization.weights:
            _quantize_layer(editor, node, quantization)
    for node in list(editor.graph.nodes):
        if node.name in quantization.activations:
            _quantize_value(editor, node, quantization)
    return editor.finish(name, values=len(quantization.activations), weights=len(quantization.weights))


def _quantize_layer(editor: Editor, node: Node, quantization: Quantization) -> None:
    weight = quantization.weights[node.name]
    path = editor.path(weight_of(node))
    bias = bias_of(node)
    with editor.before(node):
        node.replace_input_with(weight_of(node), _stored_weight(editor, path, weight))
        if bias is None:
            return
        value = quantization.biases.get(node.name, editor.value(bias))
        if value is None:
            raise TypeError(f"{bias.format_node()} is no constant")
        if level_of(node, quantization.levels) < Level.INPUTS:
            stored = editor.with_value(bias, node, value)
        else:
            scale = quantization.activations[input_of(node).name].scale
            stored = _stored_bias(editor, editor.path(bias), value, weight.scales * scale)
        node.replace_input_with(bias, stored)


def _stored_weight(editor: Editor, path: str, weight: QuantizedWeight) -> Node:
    limit = weight_limit(weight.bits)
    return editor.call(
        decomposed.dequantize_per_channel.default,
        editor.add_tensor(f"{path}_int8", weight.values),
        editor.add_tensor(f"{path}_scale", weight.scales),
        None,
        weight.axis,
        -limit,
        limit,
        torch.int8,
    )


def _stored_bias(editor: Editor, path: str, value: torch.Tensor, scales: torch.Tensor) -> Node:
    return editor.call(
        decomposed.dequantize_per_channel.default,
        editor.add_tensor(f"{path}_int32", quantize_bias(value, scales)),
        editor.add_tensor(f"{path}_scale", scales),
        None,
        0,
        _INT32.min,
        _INT32.max,
        torch.int32,
    )


def _quantize_value(editor: Editor, node: Node, quantization: Quantization) -> None:
    grid = quantization.activations[node.name]
    users = [
        user
        for user in node.users
        if gives_integers(node, quantization.levels) or is_read_as_integer(node, user, quantization.levels)
    ]
    with editor.before(_after(node)):
        limits = (grid.scale, grid.zero_point, grid.quant_min, grid.quant_max, grid.dtype)
        stored = editor.call(decomposed.quantize_per_tensor.default, node, *limits)
        real = editor.call(decomposed.dequantize_per_tensor.default, stored, *limits)
    for user in users:
        user.replace_input_with(node, real)


def _after(node: Node) -> Node:
    """The first place behind a node: behind all placeholders, for one of them."""
    following = node.next
    while following.op == "placeholder":
        following = following.next
    return following
