"""Operators of a TFLite file as LiteRT runs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgevit.export.placement.operators import Operand, Operator
from edgevit.export.placement.read_tflite import read_tflite
from edgevit.prediction.operations import Operation, depthwise, in_one_model

_BYTES = {"int8": 1, "uint8": 1, "bool": 1, "float16": 2, "int16": 2, "int64": 8}

_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})


def read_operations(path: Path) -> list[Operation]:
    """The operations of a file, in its order."""
    return [operation for operation in operations_by_place(path) if operation is not None]


def operations_by_place(path: Path) -> list[Operation | None]:
    """What each operator of a file comes to; None for a padding that a convolution takes in."""
    operators = read_tflite(path)
    operations = in_one_model([operation_of(operator) for operator in operators])
    behind = [*operators[1:], None]
    return [
        None if _taken_in(operator, after) else operation
        for operation, operator, after in zip(operations, operators, behind, strict=True)
    ]


def _taken_in(operator: Operator, after: Operator | None) -> bool:
    if operator.kind != "PAD" or after is None or after.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return False
    return operator.outputs[0].shape == after.inputs[0].shape


def operation_of(operator: Operator) -> Operation:
    """What an operator of a file comes to."""
    computed = [each for each in operator.inputs if not each.constant]
    constants = [each for each in operator.inputs if each.constant]
    first = computed[0] if computed else operator.inputs[0]
    label, read, written = f"{operator.kind} {first.dtype}", _bytes(computed), _bytes(operator.outputs)
    if operator.kind not in _PRODUCTS:
        return Operation(label, 0, read, written, 0)
    result, kernel = _sizes(operator.outputs[0]), _sizes(constants[0]) if constants else ()
    weights = _bytes(each for each in constants if len(_sizes(each)) > 1)
    if operator.kind == "CONV_2D":
        label += " pointwise" if kernel[1:3] == (1, 1) else " dense"
        return Operation(label, math.prod(result) * math.prod(kernel[1:]), read, written, weights)
    if operator.kind == "DEPTHWISE_CONV_2D":
        label = f"{label} {depthwise(kernel[1:3], _sizes(first)[-1], result[-1])}"
        return Operation(label, math.prod(result) * math.prod(kernel[1:3]), read, written, weights)
    # Rows times columns times what they have in common.
    width = math.prod(_sizes(first)) // max(1, math.prod(result[:-1]))
    return Operation(label, math.prod(result) * width, read, written, weights)


def _sizes(operand: Operand) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in operand.shape or ())


def _bytes(operands: Iterable[Operand] | Sequence[Operand]) -> int:
    return sum(math.prod(_sizes(each)) * _BYTES.get(each.dtype, 4) for each in operands)
