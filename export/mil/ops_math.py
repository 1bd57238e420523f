"""Elementwise arithmetic, comparison, logic, choice and casts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgevit.export.mil.registry import HANDLERS, Handler, Operands, handles, handles_table

_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": torch.clone,
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

# Arithmetic on x + epsilon, which MIL adds against division by zero.
_GUARDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "inverse": torch.reciprocal,
    "log": torch.log,
    "rsqrt": torch.rsqrt,
}


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Handler:
    return lambda op: function(op.tensor("x"), op.tensor("y"))


def _guarded(function: Callable[[torch.Tensor], torch.Tensor]) -> Handler:
    return lambda op: function(op.tensor("x") + op.tensor("epsilon"))


handles_table(_UNARY)
HANDLERS.update({kind: _binary(function) for kind, function in _BINARY.items()})
HANDLERS.update({kind: _guarded(function) for kind, function in _GUARDED.items()})


@handles("clip")
def clip(op: Operands) -> torch.Tensor:
    """Values held between alpha and beta."""
    return op.tensor("x").clamp(op.number("alpha"), op.number("beta"))


@handles("threshold")
def threshold(op: Operands) -> torch.Tensor:
    """Values held at or above alpha."""
    return op.tensor("x").clamp(min=op.number("alpha"))


@handles("select")
def select(op: Operands) -> torch.Tensor:
    """`a` where the condition holds, `b` elsewhere."""
    return torch.where(op.tensor("cond"), op.tensor("a"), op.tensor("b"))


@handles("cast")
def cast(op: Operands) -> torch.Tensor:
    """Another type; floats become integers by dropping their fraction."""
    return as_dtype(op.tensor("x"), op.text("dtype"))


def as_dtype(value: torch.Tensor, dtype: str) -> torch.Tensor:
    """The value as the torch type that stands for a MIL type; fp16 is rounded where ops end, not here."""
    if dtype == "bool":
        return value.bool()
    return value.float() if dtype.startswith("fp") else value.int()
