"""Quantised activations and compressed weights."""

from __future__ import annotations

import math

import torch

from edgevit.export.mil.ops_math import as_dtype
from edgevit.export.mil.registry import Operands, handles

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@handles("quantize")
def quantize(op: Operands) -> torch.Tensor:
    """clip(round(input / scale) + zero_point), halves rounded to even."""
    x, dtype = op.tensor("input"), op.text("output_dtype")
    scale, zero_point = _along_axis(op, "scale", x), _along_axis(op, "zero_point", x)
    return (torch.round(x / scale) + zero_point).clamp(*_RANGES[dtype]).int()


@handles("dequantize")
def dequantize(op: Operands) -> torch.Tensor:
    """Scale * (input - zero_point)."""
    x = op.tensor("input")
    return _along_axis(op, "scale", x) * (x - _along_axis(op, "zero_point", x))


@handles("constexpr_affine_dequantize")
def constexpr_affine_dequantize(op: Operands) -> torch.Tensor:
    """Scale * (quantized_data - zero_point)."""
    data = op.tensor("quantized_data")
    return _along_axis(op, "scale", data) * (data - _along_axis(op, "zero_point", data))


def _along_axis(op: Operands, name: str, x: torch.Tensor) -> torch.Tensor:
    """A per-tensor or per-channel parameter, shaped to broadcast with `x`; 0 when left out."""
    value = op.optional(name)
    if value is None:
        return torch.zeros(())
    if value.ndim == 0:
        return value
    shape = [1] * x.ndim
    shape[op.integer("axis")] = -1
    return value.reshape(shape)


@handles("constexpr_cast")
def constexpr_cast(op: Operands) -> torch.Tensor:
    """Half-precision weights that are used in single precision."""
    return as_dtype(op.tensor("source_val"), op.text("output_dtype"))


@handles("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(op: Operands) -> torch.Tensor:
    """Scale * (data - offset), each scale and offset serving one block."""
    return _shifted_scaled(op, op.tensor("data"))


def _shifted_scaled(op: Operands, data: torch.Tensor) -> torch.Tensor:
    offset = op.optional("offset")
    shifted = data if offset is None else data - _per_block(offset, data.shape)
    return _per_block(op.tensor("scale"), data.shape) * shifted


def _per_block(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Every element repeated over the block it stands for."""
    for axis, size in enumerate(shape):
        value = value.repeat_interleave(size // value.shape[axis], axis)
    return value


@handles("constexpr_lut_to_dense")
def constexpr_lut_to_dense(op: Operands) -> torch.Tensor:
    """Values looked up in a table, per tensor (iOS 16) or in blocks of entries or vectors (iOS 18)."""
    if "shape" not in op:
        return _looked_up(op, op.tensor("indices"))
    shape, table = op.integers("shape"), op.tensor("lut")
    return table[_unpacked(op.tensor("indices"), round(math.log2(len(table))), shape)]


def _looked_up(op: Operands, indices: torch.Tensor) -> torch.Tensor:
    """Each index replaced by its block's entry; an entry of several values is laid along an axis."""
    table = op.tensor("lut")
    entries, width = table.shape[-2:]
    tables = table.reshape(*table.shape[: indices.ndim], entries * width)
    tables = _per_block(tables, torch.Size([*indices.shape, entries * width]))
    tables = tables.reshape(-1, entries, width)
    values = tables[torch.arange(len(tables)), indices.reshape(-1).long()].reshape(*indices.shape, width)
    if "vector_axis" not in op:
        return values.squeeze(-1)
    axis = op.integer("vector_axis") % indices.ndim
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _unpacked(packed: torch.Tensor, bits: int, shape: list[int]) -> torch.Tensor:
    """Elements of `bits` bits packed into bytes, the least significant bit first."""
    count = math.prod(shape)
    stream = (packed.reshape(-1, 1) >> torch.arange(8)) & 1
    weights = 1 << torch.arange(bits)
    return (stream.reshape(-1)[: count * bits].reshape(count, bits) * weights).sum(1).reshape(shape)


@handles("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(op: Operands) -> torch.Tensor:
    """Zeros, and the stored values where the mask is set."""
    mask = op.tensor("mask")
    if "shape" in op:  # iOS 16 packs the mask, a bit per element
        mask = _unpacked(mask, 1, op.integers("shape"))
    return _dense(op.tensor("nonzero_data"), mask)


def _dense(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[mask != 0] = values
    return dense


@handles("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(op: Operands) -> tuple[torch.Tensor, ...]:
    """`constexpr_lut_to_dense` on the stored elements only: their mask, and their values."""
    mask = op.tensor("indices_mask")
    dense = _looked_up(op, _dense(op.tensor("indices_nonzero_data"), mask))
    for axis, size in enumerate(dense.shape):
        mask = mask.repeat_interleave(size // mask.shape[axis], axis)
    return mask, dense[mask != 0]


@handles("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(op: Operands) -> tuple[torch.Tensor, ...]:
    """`constexpr_blockwise_shift_scale` on the stored elements only: their mask, and their values."""
    mask = op.tensor("data_mask")
    dense = _shifted_scaled(op, _dense(op.tensor("nonzero_data"), mask))
    return mask, dense[mask != 0]
