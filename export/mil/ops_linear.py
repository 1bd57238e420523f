"""Matrix products and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.export.mil.registry import Operands, handles


@handles("linear")
def linear(op: Operands) -> torch.Tensor:
    """X @ weight.T + bias."""
    return F.linear(op.tensor("x"), op.tensor("weight"), op.optional("bias"))


@handles("matmul")
def matmul(op: Operands) -> torch.Tensor:
    """Batched matrix product, either operand transposed on the way."""
    x, y = op.tensor("x"), op.tensor("y")
    x = x.mT if op.flag("transpose_x") else x
    y = y.mT if op.flag("transpose_y") else y
    return torch.matmul(x, y)


@handles("einsum")
def einsum(op: Operands) -> torch.Tensor:
    """Einstein summation, in numpy's notation."""
    return torch.einsum(op.text("equation"), *op.tensors("values"))


@handles("scaled_dot_product_attention")
def attention(op: Operands) -> torch.Tensor:
    """softmax(q k^T / sqrt(width) + mask) v; a bool mask says which keys take part."""
    return F.scaled_dot_product_attention(
        op.tensor("query"), op.tensor("key"), op.tensor("value"), op.optional("attn_mask")
    )
