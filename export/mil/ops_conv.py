"""Convolution and pooling over one, two or three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.export.mil.registry import Operands, handles

# By number of spatial dimensions.
_CONV: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@handles("conv")
def conv(op: Operands) -> torch.Tensor:
    """Cross-correlation of `x` (n, channels, ...) with `weight`, plus `bias`."""
    x, weight = op.tensor("x"), op.tensor("weight")
    strides, dilations = op.integers("strides"), op.integers("dilations")
    extents = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x = _padded(x, _pads(op, extents, strides))
    return _CONV[x.ndim - 2](
        x, weight, op.optional("bias"), stride=strides, dilation=dilations, groups=op.integer("groups")
    )


@handles("conv_transpose")
def conv_transpose(op: Operands) -> torch.Tensor:
    """The gradient of `conv`: computed unpadded, then cropped by the padding."""
    if op.text("pad_type") not in ("valid", "custom"):
        raise ValueError(f"pad_type {op.text('pad_type')!r} of a transposed convolution is not evaluated")
    x = op.tensor("x")
    spatial = x.ndim - 2
    full = _CONV_TRANSPOSE[spatial](
        x,
        op.tensor("weight"),
        op.optional("bias"),
        stride=op.integers("strides"),
        dilation=op.integers("dilations"),
        groups=op.integer("groups"),
    )
    pads = op.integers("pad") if op.text("pad_type") == "custom" else [0] * 2 * spatial
    wanted = op.integers("output_shape")[2:] if "output_shape" in op else None
    for axis in range(spatial):
        before, after = pads[2 * axis : 2 * axis + 2]
        length = wanted[axis] if wanted else full.shape[axis + 2] - before - after
        # An output_shape can reach past what the input covers, where nothing but the bias arrives.
        full = _extended(full, axis + 2, before + length, op.optional("bias"))
        full = full.narrow(axis + 2, before, length)
    return full


def _extended(x: torch.Tensor, axis: int, length: int, bias: torch.Tensor | None) -> torch.Tensor:
    missing = length - x.shape[axis]
    if missing <= 0:
        return x
    shape = list(x.shape)
    shape[axis] = missing
    fill = torch.zeros(shape)
    if bias is not None:
        fill = fill + bias.reshape(-1, *[1] * (x.ndim - 2))
    return torch.cat([x, fill], axis)


@handles("max_pool")
def max_pool(op: Operands) -> torch.Tensor:
    """The largest value of every window."""
    x, kernel, strides = op.tensor("x"), op.integers("kernel_sizes"), op.integers("strides")
    pads = _pads(op, kernel, strides)
    if op.flag("ceil_mode"):  # MIL allows it with symmetric padding only, which torch takes
        return _MAX_POOL[x.ndim - 2](x, kernel, strides, pads[::2], ceil_mode=True)
    return _MAX_POOL[x.ndim - 2](_padded(x, pads, float("-inf")), kernel, strides)


@handles("avg_pool")
def avg_pool(op: Operands) -> torch.Tensor:
    """The mean of every window; padding counts unless it is excluded."""
    x, kernel, strides = op.tensor("x"), op.integers("kernel_sizes"), op.integers("strides")
    pads, exclude = _pads(op, kernel, strides), op.flag("exclude_padding_from_average")
    pool = _AVG_POOL[x.ndim - 2]
    if op.flag("ceil_mode"):
        return pool(x, kernel, strides, pads[::2], ceil_mode=True, count_include_pad=not exclude)
    means = pool(_padded(x, pads), kernel, strides)
    if exclude and any(pads):
        means = means / pool(_padded(torch.ones_like(x), pads), kernel, strides)
    return means


def _pads(op: Operands, extents: list[int], strides: list[int]) -> list[int]:
    """Padding before and after each spatial dimension, in MIL's order: first dimension first.

    Args:
        op: with ``pad_type`` and, for "custom", ``pad``.
        extents: how far each window reaches, dilation included.
        strides: of each spatial dimension.
    """
    kind, sizes = op.text("pad_type"), op.tensor("x").shape[2:]
    if kind == "custom":
        return op.integers("pad")
    if kind == "valid":
        return [0] * 2 * len(sizes)
    pads = []
    for size, extent, stride in zip(sizes, extents, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        smaller, larger = total // 2, total - total // 2
        pads += [larger, smaller] if kind == "same_lower" else [smaller, larger]
    return pads


def _padded(x: torch.Tensor, pads: list[int], value: float = 0.0) -> torch.Tensor:
    if not any(pads):
        return x
    # torch wants the last dimension first.
    pairs = [pads[index : index + 2] for index in range(0, len(pads), 2)]
    return F.pad(x, [pad for pair in reversed(pairs) for pad in pair], value=value)
