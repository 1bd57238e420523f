"""Operators of a Core ML package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.export.placement.operators import MOST_VALUES, Operand, Operator, Scalar

if TYPE_CHECKING:
    from edgevit.export.mil.program import MilProgram, Operation, Variable
    from edgevit.export.mil.registry import Value

_DTYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


def read_coreml(path: Path) -> tuple[Operator, ...]:
    """The operations of a package's main function, in its order; constants are none.

    Raises:
        EdgevitError: when the package is damaged, or the reference evaluator cannot read it.
        MissingDependencyError: without the ``coreml`` extra.
    """
    from edgevit.export.mil import load_program, read_package

    return _Reader(load_program(read_package(path))).operators()


class _Reader:
    """A program's operations as records; `fixed` are the values that its constants determine."""

    def __init__(self, program: MilProgram) -> None:
        self._program = program
        self._fixed = set(program.constants)
        made = (variable for operation in program.operations for variable in operation.outputs)
        self._variables = {variable.key: variable for variable in (*program.inputs, *made)}

    def operators(self) -> tuple[Operator, ...]:
        return tuple(self._operator(operation) for operation in self._program.operations)

    def _operator(self, operation: Operation) -> Operator:
        slots = [
            (slot, key)
            for slot, keys in operation.inputs.items()
            for key in ([keys] if isinstance(keys, int) else keys)
        ]
        inputs = tuple(self._operand(slot, key) for slot, key in slots)
        if all(operand.constant for operand in inputs):
            self._fixed.update(variable.key for variable in operation.outputs)
        outputs = tuple(_variable(str(number), variable) for number, variable in enumerate(operation.outputs))
        return Operator(operation.kind, inputs, outputs, self._attributes(operation))

    def _operand(self, slot: str, key: int) -> Operand:
        if key in self._program.constants:
            return _constant(slot, self._program.constants[key])
        found = _variable(slot, self._variables[key])
        return Operand(slot, found.dtype, found.shape, constant=key in self._fixed)

    def _attributes(self, operation: Operation) -> Mapping[str, Scalar]:
        constants = {
            name: self._program.constants[key]
            for name, key in operation.inputs.items()
            if isinstance(key, int) and key in self._program.constants
        }
        return {name: scalar for name, value in constants.items() if (scalar := _scalar(value)) is not None}


def _variable(slot: str, variable: Variable) -> Operand:
    if variable.type is None:
        return Operand(slot, "string", ())
    return Operand(slot, _DTYPES.get(variable.type.dtype, variable.type.dtype), variable.type.shape)


def _constant(slot: str, value: Value) -> Operand:
    import torch

    if not isinstance(value, torch.Tensor):
        return Operand(slot, "string", (), constant=True)
    values = tuple(value.reshape(-1).tolist()) if value.numel() <= MOST_VALUES else None
    dtype = str(value.dtype).removeprefix("torch.")
    return Operand(slot, dtype, tuple(value.shape), constant=True, values=values)


def _scalar(value: Value) -> Scalar | None:
    import torch

    if isinstance(value, str):
        return value
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        number: Scalar = value.item()
        return number
    return None
