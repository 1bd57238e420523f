"""Shapes: reshape, transpose, join, split, repeat, pad, fill."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.export.mil.registry import Operands, handles


@handles("reshape")
def reshape(op: Operands) -> torch.Tensor:
    """0 keeps the input's size at the same place counted from the right; -1 is what is left."""
    x, shape = op.tensor("x"), op.integers("shape")
    for back in range(1, len(shape) + 1):
        if shape[-back] == 0:
            shape[-back] = x.shape[-back] if back <= x.ndim else 1
    return x.reshape(shape)


@handles("transpose")
def transpose(op: Operands) -> torch.Tensor:
    """The axes in a new order."""
    return op.tensor("x").permute(op.integers("perm"))


@handles("expand_dims")
def expand_dims(op: Operands) -> torch.Tensor:
    """New axes of size 1, at their places in the result."""
    x, axes = op.tensor("x"), op.integers("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@handles("squeeze")
def squeeze(op: Operands) -> torch.Tensor:
    """Without the named axes of size 1; without all of them when none is named."""
    return op.tensor("x").squeeze(op.integers("axes")) if "axes" in op else op.tensor("x").squeeze()


@handles("concat")
def concat(op: Operands) -> torch.Tensor:
    """Joined along an axis, one after the other or in turns."""
    values, axis = op.tensors("values"), op.integer("axis") % op.tensors("values")[0].ndim
    if op.flag("interleave"):
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


@handles("stack")
def stack(op: Operands) -> torch.Tensor:
    """Joined along a new axis."""
    return torch.stack(op.tensors("values"), op.integer("axis"))


@handles("split")
def split(op: Operands) -> tuple[torch.Tensor, ...]:
    """Cut along an axis, into given sizes or equal parts."""
    x, axis = op.tensor("x"), op.integer("axis")
    if "split_sizes" in op:
        return torch.split_with_sizes(x, op.integers("split_sizes"), axis)
    return torch.tensor_split(x, op.integer("num_splits"), axis)


@handles("tile")
def tile(op: Operands) -> torch.Tensor:
    """Repeated along every axis."""
    return op.tensor("x").repeat(op.integers("reps"))


@handles("reverse")
def reverse(op: Operands) -> torch.Tensor:
    """Backwards along the named axes, or all."""
    x = op.tensor("x")
    return x.flip(op.integers("axes") if "axes" in op else list(range(x.ndim)))


@handles("pad")
def pad(op: Operands) -> torch.Tensor:
    """The last dimensions grown before and after, by a constant, a mirror or the border."""
    x, pads, mode = op.tensor("x"), op.integers("pad"), op.text("mode")
    first = x.ndim - len(pads) // 2
    if mode == "constant":
        # torch wants the last dimension first.
        pairs = [pads[index : index + 2] for index in range(0, len(pads), 2)]
        value = op.number("constant_val")
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)
    for axis in range(first, x.ndim):
        before, after = pads[2 * (axis - first) : 2 * (axis - first) + 2]
        x = x.index_select(axis, _border(x.shape[axis], before, after, mode))
    return x


def _border(size: int, before: int, after: int, mode: str) -> torch.Tensor:
    """Which element of a dimension stands at each place of the padded one."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if mode == "reflect":
        return (size - 1 - (size - 1 - places.abs()).abs()).abs()
    raise ValueError(f"padding mode {mode!r} is not evaluated")


@handles("fill")
def fill(op: Operands) -> torch.Tensor:
    """One value everywhere."""
    value = op.tensor("value")
    return torch.full(op.integers("shape"), value.item(), dtype=value.dtype)


@handles("shape")
def shape_of(op: Operands) -> torch.Tensor:
    """The sizes of a tensor."""
    return torch.tensor(op.tensor("x").shape, dtype=torch.int32)


@handles("range_1d")
def range_1d(op: Operands) -> torch.Tensor:
    """From start to before end."""
    start, end, step = (op.tensor(name) for name in ("start", "end", "step"))
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@handles("pixel_shuffle")
def pixel_shuffle(op: Operands) -> torch.Tensor:
    """Channels become finer pixels."""
    return F.pixel_shuffle(op.tensor("x"), op.integer("upscale_factor"))


@handles("pixel_unshuffle")
def pixel_unshuffle(op: Operands) -> torch.Tensor:
    """Pixels become channels."""
    return F.pixel_unshuffle(op.tensor("x"), op.integer("downscale_factor"))


@handles("band_part")
def band_part(op: Operands) -> torch.Tensor:
    """What lies within `lower` diagonals below and `upper` above the main one; -1 is all of them."""
    x, lower, upper = op.tensor("x"), op.integer("lower"), op.integer("upper")
    kept = x if upper < 0 else x.tril(upper)
    return kept if lower < 0 else kept.triu(-lower)


@handles("cumsum")
def cumsum(op: Operands) -> torch.Tensor:
    """Running sum along an axis, optionally from the end or without the element itself."""
    x, axis = op.tensor("x"), op.integer("axis")
    x = x.flip(axis) if op.flag("reverse") else x
    total = x.cumsum(axis, dtype=x.dtype)
    total = total - x if op.flag("exclusive") else total
    return total.flip(axis) if op.flag("reverse") else total
