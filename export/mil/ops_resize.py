"""Resizing the last two dimensions."""

from __future__ import annotations

import torch

from edgevit.export.mil.registry import Operands, handles


@handles("upsample_bilinear")
def upsample_bilinear(op: Operands) -> torch.Tensor:
    """By a factor per dimension; half-pixel centres unless corners are aligned or they are declined."""
    x = op.tensor("x")
    corners = op.flag("align_corners")
    centres = op.flag("half_pixel_centers") if "half_pixel_centers" in op else not corners
    if corners and centres:
        raise ValueError("corners and half-pixel centres cannot both be aligned")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if centres else "DEFAULT"
    for axis, size in zip((-2, -1), _scaled(op, x), strict=True):
        x = _linear(x, axis, size, mode)
    return x


@handles("resize_bilinear")
def resize_bilinear(op: Operands) -> torch.Tensor:
    """To a size, sampled as the mode says."""
    x, mode = op.tensor("x"), op.text("sampling_mode")
    x = _linear(x, -2, op.integer("target_size_height"), mode)
    return _linear(x, -1, op.integer("target_size_width"), mode)


@handles("upsample_nearest_neighbor")
def upsample_nearest_neighbor(op: Operands) -> torch.Tensor:
    """By a factor per dimension."""
    x = op.tensor("x")
    for axis, size in zip((-2, -1), _scaled(op, x), strict=True):
        x = _nearest(x, axis, size)
    return x


@handles("resize_nearest_neighbor")
def resize_nearest_neighbor(op: Operands) -> torch.Tensor:
    """To a size."""
    x = _nearest(op.tensor("x"), -2, op.integer("target_size_height"))
    return _nearest(x, -1, op.integer("target_size_width"))


def _scaled(op: Operands, x: torch.Tensor) -> tuple[int, int]:
    # Single precision, as MIL infers the shape: 5 * 1.4 is 7 there, and less where the factor is widened.
    height, width = op.tensor("scale_factor_height"), op.tensor("scale_factor_width")
    return int(torch.floor(height * x.shape[-2])), int(torch.floor(width * x.shape[-1]))


def _linear(x: torch.Tensor, axis: int, size: int, mode: str) -> torch.Tensor:
    """Linear interpolation along one axis at the grid points of MIL's specification."""
    last = x.shape[axis] - 1
    points = _grid(x.shape[axis], size, mode).clamp(0, last)
    below = points.floor().long()
    above = (below + 1).clamp(max=last)
    share = (points - below).float()
    share = share.unsqueeze(-1) if axis == -2 else share
    return x.index_select(axis, below) * (1 - share) + x.index_select(axis, above) * share


def _grid(old: int, new: int, mode: str) -> torch.Tensor:
    """Where each new element lies among the old ones, in double precision."""
    steps = torch.arange(new, dtype=torch.float64)
    match mode:
        case "ALIGN_CORNERS" if new == 1:
            return torch.full((1,), (old - 1) / 2, dtype=torch.float64)
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS":
            return steps * (old - 1) / max(new - 1, 1)
        case "DEFAULT":
            return steps * (old / new)
        case "OFFSET_CORNERS":
            return (steps + 0.5) * (max(1, old - 1) / new)
        case "UNALIGN_CORNERS":
            return (steps + 0.5) * (old / new) - 0.5
        case _:
            raise ValueError(f"sampling mode {mode!r} is not evaluated")


def _nearest(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    # Whole numbers: a quotient in floating point can fall just below an exact place.
    places = torch.arange(size) * x.shape[axis] // size
    return x.index_select(axis, places)
