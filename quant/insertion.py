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
from edgevit.quant.dynamic import insert_dynamic
from edgevit.quant.grids import ActivationGrid, QuantizedWeight, quantize_bias, weight_limit
from edgevit.quant.levels import (
    Level,
    Levels,
    computes_integers,
    gives_integers,
    is_read_as_integer,
    level_of,
    written,
)
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
        narrow: grids of up to 8 bits for values that are on 16, where an operation computes on no more.
    """

    levels: Levels
    activations: Mapping[str, ActivationGrid]
    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, torch.Tensor] = field(default_factory=dict)
    narrow: Mapping[str, ActivationGrid] = field(default_factory=dict)


def grid_read(value: Node, reader: Node, quantization: Quantization) -> ActivationGrid:
    """The grid on which an operation reads a value.

    No kernel multiplies or adds 8 and 16 bits: an operation reads everything on as many bits as it gives.
    What gives floats, or only moves integers, takes them as they are.
    """
    grid = quantization.activations[value.name]
    bits = _bits_given(reader, quantization) or grid.bits
    if (bits == 16) == (grid.bits == 16):
        return grid
    return grid.widened() if bits == 16 else quantization.narrow[value.name]


def _bits_given(node: Node, quantization: Quantization) -> int | None:
    """On how many bits an operation computes its integers; None where it computes none."""
    if not computes_integers(node, quantization.levels):
        return None
    grid = quantization.activations.get(written(node, quantization.levels).name)
    return None if grid is None else grid.bits


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

    At DYNAMIC the first pair is one of tokens (`edgevit.quant.dynamic`), and the bias stays float.

    Where an operation on 8 bits reads what another gives on 16, or the other way round, a second pair behind
    the first brings it to the reader's grid.

    Args:
        program: a float program.
        quantization: made for this very graph.
        name: of the card's step.
    """
    editor, grids = Editor(program), quantization.activations
    values = [node for node in program.graph.nodes if node.name in grids]
    # Read off the graph before it changes.
    given = {node.name: gives_integers(node, quantization.levels) for node in values}
    readers = {node.name: _readers(node, quantization) for node in values}
    for node in list(editor.graph.nodes):
        if is_layer(node) and node.name in quantization.weights:
            _quantize_layer(editor, node, quantization)
    for node in list(editor.graph.nodes):
        if node.name in grids:
            name = node.name
            _quantize_value(editor, node, grids[name], readers[name], given=given[name])
    _quantize_tokens(editor, quantization.levels)
    return editor.finish(name, values=len(quantization.activations), weights=len(quantization.weights))


def _quantize_layer(editor: Editor, node: Node, quantization: Quantization) -> None:
    weight = quantization.weights[node.name]
    path = editor.path(weight_of(node))
    bias = bias_of(node)
    on_integers = level_of(node, quantization.levels) >= Level.INPUTS
    grid = grid_read(input_of(node), node, quantization) if on_integers else None
    with editor.before(node):
        node.replace_input_with(weight_of(node), _stored_weight(editor, path, weight))
        if bias is None:
            return
        value = quantization.biases.get(node.name)
        value = editor.stored(bias) if value is None else value
        if grid is None:
            stored = editor.with_value(bias, node, value)
        else:
            stored = _stored_bias(editor, editor.path(bias), value, weight.scales * grid.scale)
        node.replace_input_with(bias, stored)


def _quantize_tokens(editor: Editor, levels: Levels) -> None:
    """What layers at level DYNAMIC read, for each by itself as its kernel does it."""
    for node in list(editor.graph.nodes):
        if level_of(node, levels) == Level.DYNAMIC:
            source = input_of(node)
            with editor.before(node):
                node.replace_input_with(source, insert_dynamic(editor, source))


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


def _readers(value: Node, quantization: Quantization) -> dict[str, ActivationGrid]:
    """Who reads a value as integers, and on which grid."""
    levels = quantization.levels
    given = gives_integers(value, levels)
    return {
        user.name: grid_read(value, user, quantization)
        for user in value.users
        if given or is_read_as_integer(value, user, levels)
    }


def _quantize_value(
    editor: Editor, node: Node, grid: ActivationGrid, readers: Mapping[str, ActivationGrid], *, given: bool
) -> None:
    """Put pairs behind a value: of its own grid, and of every other on which something reads it."""
    pairs: dict[ActivationGrid, Node] = {}
    with editor.before(_after(node)):
        if given or grid in readers.values():
            pairs[grid] = _pair(editor, node, grid)
        for other in dict.fromkeys(readers.values()):
            # A float is brought to each grid by itself, and not rounded twice.
            if other != grid:
                pairs[other] = _pair(editor, pairs[grid] if given else node, other)
    for user in list(node.users):
        if user.name in readers:
            user.replace_input_with(node, pairs[readers[user.name]])


def _pair(editor: Editor, source: Node, grid: ActivationGrid) -> Node:
    """A quantize / dequantize pair; returns its end."""
    limits = (grid.scale, grid.zero_point, grid.quant_min, grid.quant_max, grid.dtype)
    stored = editor.call(decomposed.quantize_per_tensor.default, source, *limits)
    return editor.call(decomposed.dequantize_per_tensor.default, stored, *limits)


def _after(node: Node) -> Node:
    """The first place behind a node: behind all placeholders, for one of them."""
    following = node.next
    while following.op == "placeholder":
        following = following.next
    return following
