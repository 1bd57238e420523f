"""SmoothQuant's exact pre-step: activations, which have one scale, give range to weights, which have many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, is_call
from edgevit.quant.operators import by_input_channel, groups_of, weight_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Smoothing:
    """One tensor made smooth: it is multiplied by `scale`, the weights of all that read it are divided.

    Attributes:
        source: node that gives it.
        scale: float32 (channels,).
        layers: that read it, all linears or all convolutions, in graph order.
    """

    source: str
    scale: torch.Tensor
    layers: tuple[str, ...]


def smooth(program: Program, smoothings: Mapping[str, Smoothing]) -> tuple[Program, dict[str, str]]:
    """Make activations smooth at the expense of weights (SmoothQuant).

    Given::

        x -> linear(W, b)

    Result::

        x -> mul(scale) -> linear(W / scale, b)

    with the factor in the weight and bias of a layer norm instead, where x is one that nothing else reads.

    Returns:
        The program, and the node that gives the smooth tensor for each smoothing.
    """
    if not smoothings:
        return program, {}
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    names = {
        name: _smooth(editor, nodes[one.source], [nodes[layer] for layer in one.layers], one.scale).name
        for name, one in smoothings.items()
    }
    return editor.finish("smooth", values=len(names)), names


def _smooth(editor: Editor, source: Node, layers: list[Node], scale: torch.Tensor) -> Node:
    for layer in layers:
        _divide_weight(editor, layer, scale)
    affine = _affine(source, scale) if set(source.users) == set(layers) else []
    for constant in affine:
        multiply_constant(editor, source, constant, scale)
    if affine:
        return source
    with editor.before(layers[0]):
        last = layers[0].target is aten.linear.default
        shape = [-1] if last else [-1, *[1] * (source.meta["val"].dim() - 2)]
        factor = editor.add_tensor(f"{editor.path(weight_of(layers[0]))}_smooth", scale.reshape(shape))
        smoothed = editor.call(aten.mul.Tensor, source, factor)
    for layer in layers:
        layer.replace_input_with(source, smoothed)
    return smoothed


def _affine(node: Node, scale: torch.Tensor) -> list[Node]:
    """Weight and bias of a layer norm over the channels; nothing where it lacks either."""
    constants = node.args[2:4] if is_call(node, {aten.layer_norm.default}) else ()
    found = [
        value for value in constants if isinstance(value, Node) and value.meta["val"].shape == scale.shape
    ]
    return found if len(found) == 2 else []


def _divide_weight(editor: Editor, layer: Node, scale: torch.Tensor) -> None:
    value = editor.stored(weight_of(layer))
    multiply_constant(editor, layer, weight_of(layer), 1 / by_input_channel(scale, value, groups_of(layer)))


def multiply_constant(editor: Editor, user: Node, constant: Node, factor: torch.Tensor) -> None:
    """Let `user` read a weight or bias times `factor`; what else reads it keeps its values."""
    value = editor.stored(constant)
    user.replace_input_with(constant, editor.with_value(constant, user, value * factor))
