"""A saved ML Program, read back and executed op by op in torch.

Why not MLModel.predict: Core ML runs on Apple's systems only. This runs what was written to disk,
weights and all, anywhere; it says what the program *means*, and nothing about how fast a device is
or which of its units runs it.

Half precision is computed in single precision and rounded to half after every op. That is what the
format promises (fp16 in, fp16 out, accumulation unspecified), and nearest to devices, whose matrix
units accumulate wider than half. torch's own half kernels on the CPU are no better a model: which of
them accumulate in half differs with the op and the processor, and some do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgevit.errors import EdgevitError
from edgevit.export.mil.ops_math import as_dtype
from edgevit.export.mil.package import Package, read_package
from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.export.mil.registry import Handler, Operands, Value, handler_of

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorType:
    """What MIL declares a value to be: "fp16", "int8", "bool", ... and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Variable:
    """A value of the program, known by `key`; `type` is None where it is no tensor."""

    key: int
    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One op: its inputs are keys of values, in lists where the op takes several under one name."""

    kind: str
    name: str
    handler: Handler
    inputs: Mapping[str, int | tuple[int, ...]]
    outputs: tuple[Variable, ...]

    def __str__(self) -> str:
        return f"the operation {self.name!r} ({self.kind})"

    @property
    def keys(self) -> list[int]:
        """All inputs' keys."""
        groups = ([keys] if isinstance(keys, int) else keys for keys in self.inputs.values())
        return [key for group in groups for key in group]


@dataclass(frozen=True, eq=False)
class MilProgram:
    """The main function of a package, ready to be evaluated.

    Attributes:
        path: the package it came from.
        inputs: what it takes.
        outputs: what it returns.
        operations: its ops in order, without constants.
        constants: values of the constants, by key.
        stored_as: what each constant tensor is declared to be stored as, by key: "fp16", "int4", ...
    """

    path: Path
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]
    constants: Mapping[int, Value]
    stored_as: Mapping[int, str]

    def evaluate(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Array | Value]:
        """Run once.

        Args:
            inputs: one array per input, of its declared shape.

        Returns:
            Every output by name: an array for a tensor (float32 for fp16 too), a string or a dictionary
            for a classifier's.

        Raises:
            EdgevitError: when an input is missing or has another shape, or an op cannot be computed.
        """
        known, remaining = self._folded
        values = dict(known)
        for variable in self.inputs:
            values[variable.key] = self._input(variable, inputs)
        with torch.no_grad():
            for index, operation in enumerate(remaining):
                values.update(self._run(operation, values))
                for key in self._last_use.get(index, ()):
                    del values[key]
        return {variable.name: _plain(values[variable.key]) for variable in self.outputs}

    @cached_property
    def _folded(self) -> tuple[Mapping[int, Value], tuple[Operation, ...]]:
        """Values that no input reaches, computed once, and the ops that are left."""
        known = dict(self.constants)
        remaining = []
        with torch.no_grad():
            for operation in self.operations:
                if all(key in known for key in operation.keys):
                    known.update(self._run(operation, known))
                else:
                    remaining.append(operation)
        return known, tuple(remaining)

    @cached_property
    def _last_use(self) -> dict[int, list[int]]:
        """For each remaining op, the values that nothing after it needs."""
        known, remaining = self._folded
        last: dict[int, int] = {}
        for index, operation in enumerate(remaining):
            last.update({variable.key: index for variable in operation.outputs})
            last.update({key: index for key in operation.keys if key not in known})
        kept = {variable.key for variable in self.outputs}
        releases: dict[int, list[int]] = {}
        for key, index in last.items():
            if key not in kept:
                releases.setdefault(index, []).append(key)
        return releases

    def _input(self, variable: Variable, inputs: Mapping[str, npt.NDArray[Any]]) -> torch.Tensor:
        if variable.name not in inputs or variable.type is None:
            raise EdgevitError(f"{self.path}: no value was given for its input {variable.name!r}")
        value = inputs[variable.name]
        if value.shape != variable.type.shape:
            raise EdgevitError(
                f"{self.path}: its input {variable.name!r} has shape {variable.type.shape}, not {value.shape}"
            )
        tensor = as_dtype(torch.from_numpy(np.ascontiguousarray(value)), variable.type.dtype)
        return _rounded(tensor, variable.type.dtype)

    def _run(self, operation: Operation, values: Mapping[int, Value]) -> dict[int, Value]:
        operands = Operands(
            {
                name: values[keys] if isinstance(keys, int) else [values[key] for key in keys]
                for name, keys in operation.inputs.items()
            }
        )
        try:
            results = operation.handler(operands)
        # Whatever torch and Python raise for operands that do not fit the op's specification.
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise EdgevitError(f"{self.path}: {operation} cannot be evaluated: {reason}") from error
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(operation.outputs):
            raise EdgevitError(
                f"{self.path}: {operation} gave {len(results)} results, {len(operation.outputs)} are declared"
            )
        return {
            variable.key: self._checked(operation, variable, value)
            for variable, value in zip(operation.outputs, results, strict=True)
        }

    def _checked(self, operation: Operation, variable: Variable, value: Value) -> Value:
        """The value, rounded to its declared type, if it is of that kind and shape."""
        if variable.type is None:
            return value
        found = value if isinstance(value, torch.Tensor) else torch.empty(0)
        if found.dtype != _torch_dtype(variable.type.dtype) or tuple(found.shape) != variable.type.shape:
            raise EdgevitError(
                f"{self.path}: {operation} gave {found.dtype}{list(found.shape)}, declared is {variable.type}"
            )
        return _rounded(found, variable.type.dtype)


def load_package(path: Path) -> MilProgram:
    """Read a package from disk: manifest, specification, weights.

    Raises:
        EdgevitError: when it is damaged, refers outside itself, or has an op that cannot be evaluated.
        MissingDependencyError: without the ``coreml`` extra.
    """
    return load_program(read_package(path))


def load_program(package: Package) -> MilProgram:
    """The main function of a package that was read and checked.

    Raises:
        EdgevitError: when coremltools cannot read it, its shapes are flexible, or an op is not known.
    """
    function = _main_function(package)
    constants: dict[int, Value] = {}
    stored_as: dict[int, str] = {}
    operations = []
    for source in function.operations:
        if source.op_type == "const":
            variable = source.outputs[0]
            constants[id(variable)] = _constant(variable.val)
            declared = _variable(variable, package.path).type
            if declared is not None:
                stored_as[id(variable)] = declared.dtype
        else:
            operations.append(_operation(source, package.path))
    return MilProgram(
        path=package.path,
        inputs=tuple(_variable(variable, package.path) for variable in function.inputs.values()),
        outputs=tuple(_variable(variable, package.path) for variable in function.outputs),
        operations=tuple(operations),
        constants=constants,
        stored_as=stored_as,
    )


def _main_function(package: Package) -> Any:
    """Coremltools' own object for the main function; it infers every type anew and compares."""
    with quiet_coremltools():
        from coremltools.converters.mil.frontend.milproto.load import load

        try:
            program = load(package.spec, package.spec.specificationVersion, str(package.weights))
            return program.functions["main"]
        # The loader raises whatever the mismatch it meets leads to, in Python or in its C++ reader.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EdgevitError(f"{package.path} cannot be read as an ML Program: {reason}") from error


def _operation(source: Any, origin: Path) -> Operation:
    inputs: dict[str, int | tuple[int, ...]] = {}
    for name, value in source.inputs.items():
        if value is not None:
            inputs[name] = tuple(map(id, value)) if isinstance(value, tuple | list) else id(value)
    return Operation(
        kind=source.op_type,
        name=source.outputs[0].name if source.outputs else source.name,
        handler=handler_of(source.op_type, source.name, str(origin)),
        inputs=inputs,
        outputs=tuple(_variable(variable, origin) for variable in source.outputs),
    )


def _variable(source: Any, origin: Path) -> Variable:
    from coremltools.converters.mil.mil import types

    if not (types.is_tensor(source.sym_type) or types.is_scalar(source.sym_type)) or types.is_str(
        source.dtype
    ):
        return Variable(id(source), source.name, None)
    shape = tuple(source.shape)
    if not all(isinstance(size, int | np.integer) for size in shape):
        raise EdgevitError(f"{origin}: {source.name!r} has a flexible shape; only fixed shapes are evaluated")
    dtype = types.builtin_to_string(source.dtype)
    return Variable(id(source), source.name, TensorType(dtype, tuple(int(size) for size in shape)))


def _constant(value: Any) -> Value:
    """A constant as an evaluator's value: text and lists of labels stay what they are."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return [item.item() if isinstance(item, np.generic) else item for item in value]
    wanted = {"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int32)
    return torch.from_numpy(np.array(array, dtype=wanted))


def _torch_dtype(dtype: str) -> torch.dtype:
    if dtype == "bool":
        return torch.bool
    return torch.float32 if dtype.startswith("fp") else torch.int32


def _plain(value: Value) -> Array | Value:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _rounded(value: torch.Tensor, dtype: str) -> torch.Tensor:
    """The nearest values that the type can hold, kept as float32; beyond half's range is infinity."""
    return value.half().float() if dtype == "fp16" else value
