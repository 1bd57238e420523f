"""What an operator mixes: channels, neighbours on the grid, or values of the image with each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.rewriting import is_call

aten = torch.ops.aten

CONVOLUTIONS = frozenset(
    {
        *(aten.conv1d.default, aten.conv1d.padding),
        *(aten.conv2d.default, aten.conv2d.padding),
        *(aten.conv3d.default, aten.conv3d.padding),
        aten.convolution.default,
    }
)
# Every operator that multiplies two tensors and sums, with the positions of the two.
_FACTORS: dict[object, tuple[int, int]] = {
    **dict.fromkeys(CONVOLUTIONS, (0, 1)),
    aten.linear.default: (0, 1),
    aten.matmul.default: (0, 1),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
    # Keys and values: queries may be learned, as tokens are before they have seen the image.
    aten.scaled_dot_product_attention.default: (1, 2),
}
CONTRACTIONS = frozenset({*_FACTORS, aten.einsum.default})

# A value is the same on either side of these: a residual connection may pass through.
COPIES = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.reshape_as.default,
        aten.permute.default,
        aten.transpose.int,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.dropout.default,
        aten.dropout_.default,
        aten.to.dtype,
    }
)
_ACTIVATION_NAMES = (
    *("relu", "relu6", "leaky_relu", "elu", "hardtanh", "hardsigmoid", "hardswish"),
    *("sigmoid", "silu", "gelu", "tanh", "mish", "softplus", "prelu"),
)
# In place as well.
ACTIVATIONS = frozenset(
    getattr(aten, name).default
    for plain in _ACTIVATION_NAMES
    for name in (plain, f"{plain}_")
    if hasattr(aten, name)
)
_SUMS = frozenset({aten.sum.dim_IntList})


def factors(node: Node) -> tuple[Node, ...]:
    """The tensors that a contraction multiplies; of any other node none."""
    if is_call(node, [aten.einsum.default]):
        return tuple(node.args[1])  # type: ignore[arg-type]
    positions = _FACTORS.get(node.target, ()) if node.op == "call_function" else ()
    return tuple(node.args[position] for position in positions)  # type: ignore[misc]


def overlaps(convolution: Node) -> bool:
    """Whether the neighbourhoods of adjacent results overlap: a kernel wider than its stride."""
    kernel = _weight(convolution).shape[2:]
    stride: Sequence[int] = _argument(convolution, "stride")
    strides = stride if len(stride) == len(kernel) else [stride[0]] * len(kernel)
    return any(size > step for size, step in zip(kernel, strides, strict=True))


def is_depthwise(node: Node) -> bool:
    """Whether the node is a convolution of each channel by itself."""
    return is_call(node, CONVOLUTIONS) and _argument(node, "groups") > 1 and _weight(node).shape[1] == 1


def widens(node: Node) -> bool:
    """Whether the node is a pointwise convolution to more channels."""
    if not is_call(node, CONVOLUTIONS):
        return False
    outputs, inputs, *kernel = _weight(node).shape
    return all(size == 1 for size in kernel) and outputs > inputs * _argument(node, "groups")


def mixes_values(node: Node, known: Collection[Node]) -> bool:
    """Whether a node multiplies two values that depend on the image, and sums.

    The sum may be an operator of its own, as in MobileViTv2's separable attention (arXiv 2206.02680).
    """
    if is_call(node, CONTRACTIONS):
        return all(factor in known for factor in factors(node))
    if not is_call(node, [aten.mul.Tensor]):
        return False
    left, right = node.args
    return left is not right and left in known and right in known and _is_summed(node)


def _is_summed(node: Node) -> bool:
    while True:
        if any(is_call(user, _SUMS) for user in node.users):
            return True
        if len(node.users) != 1 or not is_call(user := next(iter(node.users)), COPIES):
            return False
        node = user


def _weight(convolution: Node) -> torch.Tensor:
    weight: torch.Tensor = convolution.args[1].meta["val"]  # type: ignore[union-attr]
    return weight


def _argument(node: Node, name: str) -> Any:
    """An argument of an ATen operator by its name, or its default."""
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]  # noqa: SLF001
        if declared.name == name:
            given = node.args[position : position + 1]
            return given[0] if given else node.kwargs.get(name, declared.default_value)
    raise AssertionError(f"{node.target} has no argument {name}")
