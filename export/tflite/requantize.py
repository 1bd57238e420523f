"""From integers of one type to those of another in one operator, which integer-only devices have."""

from __future__ import annotations

from typing import Any

from edgevit.export.tflite.kernels import grid_in
from edgevit.export.tflite.model import conversion, operator_name, prune


def join_conversions(model: Any) -> None:
    """Bring integers to another type without making floats of them in between, in place.

    Given::

        int16 -> DEQUANTIZE -> QUANTIZE -> int8

    Result::

        int16 -> QUANTIZE -> int8
    """
    graph = model.subgraphs[0]
    unpacked = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if operator_name(model, operator) == "DEQUANTIZE"
    }
    graph.operators = [_joined(model, operator, unpacked) for operator in graph.operators]
    read = {int(tensor) for operator in graph.operators for tensor in operator.inputs} | set(graph.outputs)
    graph.operators = [
        operator
        for operator in graph.operators
        if int(operator.outputs[0]) not in unpacked or int(operator.outputs[0]) in read
    ]
    prune(model)


def _joined(model: Any, operator: Any, unpacked: dict[int, int]) -> Any:
    tensors, target = model.subgraphs[0].tensors, int(operator.outputs[0])
    source = unpacked.get(int(operator.inputs[0])) if operator_name(model, operator) == "QUANTIZE" else None
    if source is None:
        return operator
    before, after = grid_in(tensors[source]), grid_in(tensors[target])
    if before is None or after is None or before.dtype == after.dtype:
        return operator
    # The version that takes int16, the wider of the two types.
    return conversion(model, "QUANTIZE", source, target, version=2)
