"""What each ATen operator is to quantization: which arguments it multiplies, moves, or bounds."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.graph.rewriting import is_call
from edgevit.quant.grids import UNIT_INTERVAL, ActivationGrid

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """An operator with a weight: where its arguments are, and the weight's dimension of output channels."""

    input: int
    weight: int
    bias: int
    axis: int


# The operators whose integer kernels multiply an activation with a constant weight.
LAYERS: dict[object, Layer] = {
    aten.linear.default: Layer(0, 1, 2, axis=0),
    aten.conv1d.default: Layer(0, 1, 2, axis=0),
    aten.conv2d.default: Layer(0, 1, 2, axis=0),
}

# Products of two activations.
PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})

# Their integers are their input's integers in other places (or some of them): one grid for both sides.
MOVES = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.squeeze.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.slice.Tensor,
        aten.select.int,
        aten.expand.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.cat.default,
        aten.stack.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.unbind.int,
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        operator.getitem,
    }
)

# Element-wise operators and reductions that every integer runtime has.
POINTWISE = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.leaky_relu.default,
        aten.gelu.default,
        aten.tanh.default,
        aten.mean.dim,
        aten.adaptive_avg_pool2d.default,
        aten.sigmoid.default,
        aten.softmax.int,
    }
)

# No integer runtime knows it; `edgevit.quant.silu` makes a sigmoid and a product of it, which they do.
SPELLED_OUT = frozenset({aten.silu.default})

# Kernels that give one grid and no other, whatever their input.
FIXED: dict[object, ActivationGrid] = {
    aten.sigmoid.default: UNIT_INTERVAL,
    aten.softmax.int: UNIT_INTERVAL,
    aten.hardsigmoid.default: UNIT_INTERVAL,
}

# Runtimes compute these inside the layer before them: a quantizer between the two would be swallowed.
FUSED_ACTIVATIONS = frozenset({aten.relu.default, aten.relu6.default, aten.hardtanh.default})


def is_layer(node: Node) -> bool:
    """Whether the node multiplies by a weight that the graph holds."""
    return is_call(node, LAYERS) and weight_of(node).op == "placeholder"


def layer_of(node: Node) -> Layer:
    """Where the arguments of a layer are."""
    return LAYERS[node.target]


def input_of(node: Node) -> Node:
    """The activation that a layer reads."""
    return _node(node, layer_of(node).input)


def weight_of(node: Node) -> Node:
    """The weight that a layer reads."""
    return _node(node, layer_of(node).weight)


def bias_of(node: Node) -> Node | None:
    """The bias that a layer reads, or None."""
    index = layer_of(node).bias
    bias = node.args[index] if len(node.args) > index else node.kwargs.get("bias")
    return bias if isinstance(bias, Node) else None


def reads_tokens(node: Node) -> bool:
    """Whether a layer reads rows of channels, each of which may have a grid of its own."""
    return is_layer(node) and node.target is aten.linear.default


def groups_of(node: Node) -> int:
    """Into how many groups a layer splits its input channels."""
    if node.target is aten.linear.default:
        return 1
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(str(groups))


def by_input_channel(factor: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """One number for each input channel, shaped to multiply the weight of a layer that reads them.

    Args:
        factor: (channels,).
        weight: (outputs, channels / groups, ...).
        groups: of the layer.
    """
    rows = factor.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def input_peaks(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(channels,): the largest absolute value of a layer's weight that each input channel meets.

    Args:
        weight: (outputs, channels / groups, ...).
        groups: of the layer.
    """
    rows = weight.abs().flatten(2).amax(dim=2) if weight.dim() > 2 else weight.abs()
    return rows.reshape(groups, -1, rows.shape[1]).amax(dim=1).flatten()


def channel_dim(node: Node, rank: int) -> int:
    """The dimension of the channels of a node's value.

    The operator says it where it is a layer or a layer norm; else it is the second of a feature map, and
    the last of tokens.
    """
    if node.target is aten.layer_norm.default:
        return -1
    if node.target in LAYERS:
        return -1 if node.target is aten.linear.default else 1
    return 1 if rank == 4 else -1


def can_be_integer(node: Node) -> bool:
    """Whether integer runtimes have a kernel for the node."""
    return is_layer(node) or is_call(node, PRODUCTS | MOVES | POINTWISE | SPELLED_OUT)


def is_activation(value: object) -> bool:
    """Whether a value is a float32 tensor: what a grid for a whole tensor can be put on."""
    if not isinstance(value, Node) or value.op == "output":
        return False
    tensor = value.meta.get("val")
    return isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32


def _node(node: Node, index: int) -> Node:
    found = node.args[index]
    if not isinstance(found, Node):
        raise TypeError(f"{node.format_node()}: argument {index} is no tensor")
    return found
