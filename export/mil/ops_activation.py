"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from edgevit.export.mil.registry import Operands, handles, handles_table

_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
}

_GELU: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "EXACT": F.gelu,
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


handles_table(_PLAIN)


@handles("gelu")
def gelu(op: Operands) -> torch.Tensor:
    """The mode's formula."""
    return _GELU[op.text("mode")](op.tensor("x"))


@handles("softmax")
def softmax(op: Operands) -> torch.Tensor:
    """Softmax along one axis."""
    return torch.softmax(op.tensor("x"), op.integer("axis"))


@handles("elu")
def elu(op: Operands) -> torch.Tensor:
    """Alpha * (exp(x) - 1) below zero."""
    return F.elu(op.tensor("x"), op.number("alpha"))


@handles("leaky_relu")
def leaky_relu(op: Operands) -> torch.Tensor:
    """Alpha * x below zero."""
    return F.leaky_relu(op.tensor("x"), op.number("alpha"))


@handles("prelu")
def prelu(op: Operands) -> torch.Tensor:
    """alpha[channel] * x below zero; channels are axis 1."""
    return F.prelu(op.tensor("x"), op.tensor("alpha"))


@handles("clamped_relu")
def clamped_relu(op: Operands) -> torch.Tensor:
    """At most beta; alpha * x below zero."""
    return F.leaky_relu(op.tensor("x"), op.number("alpha")).clamp(max=op.number("beta"))


@handles("scaled_tanh")
def scaled_tanh(op: Operands) -> torch.Tensor:
    """Alpha * tanh(beta * x)."""
    return op.number("alpha") * torch.tanh(op.number("beta") * op.tensor("x"))


@handles("sigmoid_hard")
def sigmoid_hard(op: Operands) -> torch.Tensor:
    """Alpha * x + beta, held between 0 and 1."""
    return (op.number("alpha") * op.tensor("x") + op.number("beta")).clamp(0.0, 1.0)


@handles("softplus_parametric")
def softplus_parametric(op: Operands) -> torch.Tensor:
    """alpha[channel] * log(1 + exp(beta[channel] * x)); channels are axis 1."""
    x = op.tensor("x")
    shape = [1, -1, *[1] * (x.ndim - 2)]
    return op.tensor("alpha").reshape(shape) * F.softplus(op.tensor("beta").reshape(shape) * x)


@handles("linear_activation")
def linear_activation(op: Operands) -> torch.Tensor:
    """Alpha * x + beta."""
    return op.number("alpha") * op.tensor("x") + op.number("beta")


@handles("thresholded_relu")
def thresholded_relu(op: Operands) -> torch.Tensor:
    """X where it is at least alpha, otherwise 0."""
    x = op.tensor("x")
    return torch.where(x >= op.number("alpha"), x, 0.0)
