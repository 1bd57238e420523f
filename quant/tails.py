"""Ends of a range that nobody reads: where an activation function is flat, its input need not be told apart.

SiLU and GELU give next to nothing for everything below about -5, and the outputs of layers before them reach
far below that. A grid that ends where the function's tail begins is finer for all that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from edgevit.graph.rewriting import is_call

aten = torch.ops.aten

Function = Callable[[torch.Tensor], torch.Tensor]

# Functions of one number that have a flat end.
_FLAT = frozenset(
    {
        aten.silu.default,
        aten.gelu.default,
        aten.hardswish.default,
        aten.sigmoid.default,
        aten.hardsigmoid.default,
        aten.tanh.default,
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
    }
)
_POINTS = 4096
# Of the step of the function's own output: what its flat end may differ by.
_TOLERANCE = 0.25


def without_tails(values: Sequence[Node], low: float, high: float, *, bits: int) -> tuple[float, float]:
    """The part of a range outside which every reader is flat.

    Args:
        values: all that share a grid.
        low: smallest number observed.
        high: largest number observed.
        bits: of the grid.

    Returns:
        Low and high; what is outside may be cut off, and no reader's output changes by more than a quarter
        of its own step. The range as it is where anything else reads the values.
    """
    functions = _readers(values)
    # A grid of 16 bits is fine enough as it is.
    if not functions or low >= high or bits > 8:
        return low, high
    ends = [_flat_ends(function, low, high, bits) for function in functions]
    return min(left for left, _ in ends), max(right for _, right in ends)


def _readers(values: Sequence[Node]) -> list[Function]:
    """The functions that read the values; none where there is a reader of another kind."""
    found: list[Function] = []
    for value in values:
        users = [user for user in value.users if user not in values]
        gate = _gate(value, users)
        if gate is not None:
            found.append(gate)
        elif all(is_call(user, _FLAT) for user in users):
            found += [_function(user) for user in users]
        else:
            return []
    return found


def _gate(value: Node, users: Sequence[Node]) -> Function | None:
    """A value times its own sigmoid, as SiLU is spelled out."""
    sigmoids = [user for user in users if is_call(user, {aten.sigmoid.default})]
    products = [user for user in users if is_call(user, {aten.mul.Tensor})]
    if len(users) != 2 or len(sigmoids) != 1 or len(products) != 1:
        return None
    return torch.nn.functional.silu if {value, *sigmoids} == set(products[0].args) else None


def _function(node: Node) -> Function:
    others, options = node.args[1:], dict(node.kwargs)
    operator: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
    return lambda numbers: operator(numbers, *others, **options)


def _flat_ends(function: Function, low: float, high: float, bits: int) -> tuple[float, float]:
    """Up to where the function is what it is at the low end, and from where on what it is at the high one."""
    numbers = torch.linspace(low, high, _POINTS, dtype=torch.float64, device="cpu")
    results = function(numbers)
    tolerance = _TOLERANCE * float(results.max() - results.min()) / (2**bits - 1)
    left = _flat_from_start(results, tolerance)
    right = _POINTS - 1 - _flat_from_start(results.flip(0), tolerance)
    return float(numbers[left]), float(numbers[max(left, right)])


def _flat_from_start(results: torch.Tensor, tolerance: float) -> int:
    """The last index up to which no two results differ by more."""
    spread = results.cummax(0).values - results.cummin(0).values
    return int((spread <= tolerance).sum()) - 1
