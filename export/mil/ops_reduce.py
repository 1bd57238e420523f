"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgevit.export.mil.registry import HANDLERS, Handler, Operands

_REDUCTIONS: dict[str, Callable[[torch.Tensor, list[int], bool], torch.Tensor]] = {
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keep),
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keep),
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "reduce_prod": lambda x, axes, keep: _product(x, axes, keep=keep),
}

_BEST: dict[str, Callable[[torch.Tensor, int, bool], torch.Tensor]] = {
    "reduce_argmax": lambda x, axis, keep: x.argmax(axis, keep).int(),
    "reduce_argmin": lambda x, axis, keep: x.argmin(axis, keep).int(),
}


def _reduction(function: Callable[[torch.Tensor, list[int], bool], torch.Tensor]) -> Handler:
    return lambda op: function(op.tensor("x"), _axes(op), op.flag("keep_dims"))


def _best(function: Callable[[torch.Tensor, int, bool], torch.Tensor]) -> Handler:
    return lambda op: function(op.tensor("x"), op.integer("axis"), op.flag("keep_dims"))


def _axes(op: Operands) -> list[int]:
    """The axes, all of them when none is named."""
    return op.integers("axes") if "axes" in op else list(range(op.tensor("x").ndim))


def _product(x: torch.Tensor, axes: list[int], *, keep: bool) -> torch.Tensor:
    # torch multiplies along one axis at a time; from the last, so that the others keep their place.
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


HANDLERS.update({kind: _reduction(function) for kind, function in _REDUCTIONS.items()})
HANDLERS.update({kind: _best(function) for kind, function in _BEST.items()})
