"""Channels that reach much further than all others, multiplied in floats beside a layer that is quantized.

In transformers a few channels hold numbers tens of times larger than the rest (LLM.int8(), Dettmers et al.
2022, section 3; "massive activations", Sun et al. 2024). One grid for the tensor leaves all others a few
steps then, and smoothing would hand the range on to the weights. As in LLM.int8() the product is decomposed:
those channels are multiplied apart, which costs a column or two of the layer's arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor
from edgevit.quant.levels import Level, Levels, gives_integers, level_of
from edgevit.quant.observation import Observed
from edgevit.quant.operators import channel_dim, input_of, weight_of

aten = torch.ops.aten

# Without them the range is so many times smaller, and the noise of rounding 16 times.
_SHRINKS = 4.0
# Of so many channels one at most is an outlier, and never more than a few.
_CHANNELS = 32
_MOST = 4


def outlier_channels(observed: Observed) -> tuple[int, ...]:
    """The fewest channels without which a value's range is a quarter at most; none where it takes many.

    Args:
        observed: the value, with (channels,) peaks.
    """
    peaks, order = observed.peaks.sort(descending=True)
    for count in range(1, min(_MOST, len(peaks) // _CHANNELS) + 1):
        if peaks[0] > _SHRINKS * peaks[count]:
            return tuple(sorted(order[:count].tolist()))
    return ()


def can_decompose(layer: Node, levels: Levels) -> bool:
    """Whether a layer is a linear that brings floats to integers, and gives floats to all that read it."""
    source = input_of(layer)
    return (
        layer.target is aten.linear.default
        and level_of(layer, levels) >= Level.INPUTS
        and source.op == "call_function"
        and channel_dim(source, source.meta["val"].dim()) == -1
        and not gives_integers(source, levels)
        and all(level_of(user, levels) == Level.FLOAT and user.op != "output" for user in layer.users)
    )


def decompose(program: Program, channels: Mapping[str, Sequence[int]]) -> Program:
    """Multiply some input channels of linears apart.

    Given::

        x -> linear(W, b)

    Result::

        x -> mul(0 for the channels, 1 for others) -> linear(W, b) -> add
        x[..., channels] -> linear(W[:, channels]) -----------------> add

    Args:
        program: what to change.
        channels: by name of the linear.
    """
    editor = Editor(program)
    layers = {node.name: node for node in editor.graph.nodes}
    for name, apart in channels.items():
        _decompose(editor, layers[name], apart)
    return editor.finish("decompose", layers=len(channels))


def recompose(program: Program, channels: Mapping[str, Sequence[int]]) -> Program:
    """Multiply channels with all others again: a layer that stays float after all has no grid to spare.

    Given, with what masks them folded into W::

        x -> linear(W, b) --------------------> add
        x[..., channels] -> linear(C) --------> add

    Result::

        x -> linear(W with the columns of C, b)

    Args:
        program: what to change.
        channels: by name of the linear.
    """
    if not channels:
        return program
    editor = Editor(program)
    layers = {node.name: node for node in editor.graph.nodes}
    for name, apart in channels.items():
        layer = layers[name]
        (whole,) = layer.users
        weight, column = weight_of(layer), weight_of(whole.all_input_nodes[1])
        value = editor.stored(weight).index_copy(1, torch.tensor(apart), editor.stored(column))
        layer.replace_input_with(weight, editor.with_value(weight, layer, value))
        editor.replace(whole, layer)
    return editor.finish("recompose", layers=len(channels))


def _decompose(editor: Editor, layer: Node, channels: Sequence[int]) -> None:
    source, weight, users = input_of(layer), weight_of(layer), list(layer.users)
    value, last = editor.stored(weight), source.meta["val"].dim() - 1
    kept = torch.ones(value.shape[1]).index_fill(0, torch.tensor(channels), 0.0)
    with editor.before(layer):
        mask = editor.add_tensor(f"{editor.path(weight)}_kept", kept)
        others = editor.call(aten.mul.Tensor, source, mask)
        columns = [editor.call(aten.slice.Tensor, source, last, c, c + 1) for c in channels]
        taken = columns[0] if len(columns) == 1 else editor.call(aten.cat.default, columns, last)
        column = editor.add_tensor(f"{editor.path(weight)}_outliers", value[:, list(channels)].clone())
        apart = editor.call(aten.linear.default, taken, column)
    layer.replace_input_with(source, others)
    with editor.before(layer.next):
        whole = editor.call(aten.add.Tensor, layer, apart)
    for user in users:
        user.replace_input_with(layer, whole)
