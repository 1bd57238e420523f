"""Normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.export.mil.registry import Operands, handles


@handles("batch_norm")
def batch_norm(op: Operands) -> torch.Tensor:
    """With fixed statistics per channel, axis 1."""
    return F.batch_norm(
        op.tensor("x"),
        op.tensor("mean"),
        op.tensor("variance"),
        op.optional("gamma"),
        op.optional("beta"),
        eps=op.number("epsilon"),
    )


@handles("layer_norm")
def layer_norm(op: Operands) -> torch.Tensor:
    """Over the named axes, which need not be the last; gamma and beta have their shape."""
    x, gamma, beta = op.tensor("x"), op.optional("gamma"), op.optional("beta")
    axes = sorted(axis % x.ndim for axis in op.integers("axes")) if "axes" in op else list(range(x.ndim))
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(axes, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + op.number("epsilon"))
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


@handles("instance_norm")
def instance_norm(op: Operands) -> torch.Tensor:
    """Over the spatial dimensions of each channel of each image."""
    return F.instance_norm(
        op.tensor("x"), weight=op.optional("gamma"), bias=op.optional("beta"), eps=op.number("epsilon")
    )


@handles("l2_norm")
def l2_norm(op: Operands) -> torch.Tensor:
    """Divided by the length over the last three dimensions."""
    x = op.tensor("x")
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + op.number("epsilon"))
