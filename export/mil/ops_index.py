"""Picking elements: slices, gathers, the best k."""

from __future__ import annotations

import torch

from edgevit.export.mil.registry import Operands, handles


@handles("slice_by_index")
def slice_by_index(op: Operands) -> torch.Tensor:
    """``x[begin:end:stride]`` per axis, or one index where squeezed; masked bounds are open."""
    x, begin, end = op.tensor("x"), op.integers("begin"), op.integers("end")
    strides = op.integers("stride") if "stride" in op else [1] * x.ndim
    open_begin, open_end, squeezed = (
        [bool(item) for item in op.integers(name)] if name in op else [False] * x.ndim
        for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    for axis, size in enumerate(x.shape):
        if squeezed[axis]:
            x = x.narrow(axis, begin[axis] % size, 1)
            continue
        bounds = slice(
            None if open_begin[axis] else begin[axis], None if open_end[axis] else end[axis], strides[axis]
        )
        # As indices, because torch has no negative strides.
        x = x.index_select(axis, torch.tensor(range(*bounds.indices(size)), dtype=torch.int64))
    return x.squeeze([axis for axis in range(x.ndim) if squeezed[axis]])


@handles("slice_by_size")
def slice_by_size(op: Operands) -> torch.Tensor:
    """`size` elements from `begin` per axis; -1 is all that follow."""
    x = op.tensor("x")
    for axis, (begin, size) in enumerate(zip(op.integers("begin"), op.integers("size"), strict=True)):
        start = begin % x.shape[axis]
        x = x.narrow(axis, start, x.shape[axis] - start if size == -1 else size)
    return x


@handles("gather")
def gather(op: Operands) -> torch.Tensor:
    """Slices of `x` along an axis, one per index."""
    x = op.tensor("x")
    return _gather(x, op.tensor("indices"), op.integer("axis") % x.ndim, _batch_dims(op))


def _batch_dims(op: Operands) -> int:
    # iOS 15 has none.
    return op.integer("batch_dims") if "batch_dims" in op else 0


def _gather(x: torch.Tensor, indices: torch.Tensor, axis: int, batch_dims: int) -> torch.Tensor:
    if batch_dims > 0:
        parts = zip(x, indices, strict=True)
        return torch.stack([_gather(part, chosen, axis - 1, batch_dims - 1) for part, chosen in parts])
    chosen = _wrapped(indices.reshape(-1), x.shape[axis])
    return x.index_select(axis, chosen).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _wrapped(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices as torch wants them: 64-bit, none counted from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@handles("gather_along_axis")
def gather_along_axis(op: Operands) -> torch.Tensor:
    """One element of `x` per index, along an axis."""
    x, axis = op.tensor("x"), op.integer("axis")
    return x.gather(axis, _wrapped(op.tensor("indices"), x.shape[axis]))


@handles("gather_nd")
def gather_nd(op: Operands) -> torch.Tensor:
    """The last axis of `indices` is a place in the leading axes of `x`."""
    return _gather_nd(op.tensor("x"), op.tensor("indices"), _batch_dims(op))


def _gather_nd(x: torch.Tensor, indices: torch.Tensor, batch_dims: int) -> torch.Tensor:
    if batch_dims > 0:
        parts = zip(x, indices, strict=True)
        return torch.stack([_gather_nd(part, chosen, batch_dims - 1) for part, chosen in parts])
    places = [_wrapped(place, x.shape[axis]) for axis, place in enumerate(indices.unbind(-1))]
    return x[tuple(places)]


@handles("topk")
def topk(op: Operands) -> tuple[torch.Tensor, ...]:
    """The k largest (or smallest) along an axis, and where they were."""
    values, indices = op.tensor("x").topk(
        op.integer("k"), op.integer("axis"), largest=not op.flag("ascending"), sorted=True
    )
    wants_indices = "return_indices" not in op or op.flag("return_indices")
    return (values, indices.int()) if wants_indices else (values,)


@handles("argsort")
def argsort(op: Operands) -> torch.Tensor:
    """Where each place of the sorted axis comes from."""
    return op.tensor("x").argsort(op.integer("axis"), descending=not op.flag("ascending")).int()
