"""What an op is called and which function computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from edgevit.errors import EdgevitError

# Floats are torch.float32 whatever their MIL width, integers torch.int32, truth values torch.bool:
# the declared MIL type says what a value is rounded to, so the functions need not care.
Value = torch.Tensor | str | Sequence[object] | Mapping[object, float]


class Operands:
    """The inputs of one op, by their MIL names, each read as what the op's specification says it is."""

    def __init__(self, values: Mapping[str, Value | Sequence[Value]]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that must be there."""
        value = self._values[name]
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is no tensor")
        return value

    def optional(self, name: str) -> torch.Tensor | None:
        """A tensor that may be left out."""
        return self.tensor(name) if name in self else None

    def tensors(self, name: str) -> list[torch.Tensor]:
        """A list of tensors; one alone is a list of one."""
        values = self._values[name]
        values = [values] if isinstance(values, torch.Tensor) else values
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if len(tensors) != len(values):
            raise TypeError(f"{name} is no list of tensors")
        return tensors

    def labels(self, name: str) -> list[object]:
        """A list of strings or integers that are no tensor."""
        values = self._values[name]
        if isinstance(values, torch.Tensor):
            return list(values.tolist())
        return list(values)

    def text(self, name: str) -> str:
        """A string."""
        value = self._values[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no string")
        return value

    def number(self, name: str) -> float:
        """A float scalar."""
        return float(self.tensor(name).item())

    def integer(self, name: str) -> int:
        """An integer scalar."""
        return int(self.tensor(name).item())

    def flag(self, name: str) -> bool:
        """A truth value, false when left out."""
        return name in self and bool(self.tensor(name).item())

    def integers(self, name: str) -> list[int]:
        """A vector of integers."""
        return [int(item) for item in self.tensor(name).reshape(-1).tolist()]


Handler = Callable[[Operands], Value | tuple[Value, ...]]

HANDLERS: dict[str, Handler] = {}


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the function that computes ops of these kinds."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            HANDLERS[kind] = handler
        return handler

    return register


def handles_table(table: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> None:
    """Register ops that are a torch function of `x` alone."""

    def handler(function: Callable[[torch.Tensor], torch.Tensor]) -> Handler:
        return lambda op: function(op.tensor("x"))

    HANDLERS.update({kind: handler(function) for kind, function in table.items()})


def handler_of(kind: str, name: str, origin: str) -> Handler:
    """The function for an op.

    Raises:
        EdgevitError: naming the op, when none is known.
    """
    if kind not in HANDLERS:
        raise EdgevitError(
            f"{origin}: the reference evaluator does not know the operation {kind!r} (at {name!r})"
        )
    return HANDLERS[kind]
