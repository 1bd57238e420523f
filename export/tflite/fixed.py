"""Kernels that give integers on one grid and no other, where the Program has another: float ones instead.

The converter makes an integer kernel of every operator between two quantizers. The interpreter refuses the
file when a SOFTMAX, LOGISTIC or TANH among them does not write the grid that its table is made for.
"""

from __future__ import annotations

import copy
from typing import Any

from edgevit.export.tflite.kernels import Grid, grid_in
from edgevit.export.tflite.model import add_float_like, conversion, operator_name

_UNIT = {Grid(1 / 256, -128, "int8"), Grid(1 / 32768, 0, "int16")}
_GRIDS = {
    "SOFTMAX": _UNIT,
    "LOGISTIC": _UNIT,
    "TANH": {Grid(1 / 128, 0, "int8"), Grid(1 / 32768, 0, "int16")},
}


def free_fixed_kernels(model: Any) -> None:
    """Compute in floats where an integer kernel would not write the grid that is asked of it, in place.

    Given::

        int8 -> SOFTMAX -> int8 with scale 0.003

    Result::

        int8 -> DEQUANTIZE -> SOFTMAX -> QUANTIZE -> int8 with scale 0.003
    """
    graph = model.subgraphs[0]
    operators = []
    for operator in graph.operators:
        grids = _GRIDS.get(operator_name(model, operator))
        written = grid_in(graph.tensors[int(operator.outputs[0])])
        fits = grids is None or written is None or written in grids
        operators.extend([operator] if fits else _in_floats(model, operator))
    graph.operators = operators


def _in_floats(model: Any, operator: Any) -> list[Any]:
    source, target = int(operator.inputs[0]), int(operator.outputs[0])
    real = copy.copy(operator)
    real.inputs, real.outputs = ([add_float_like(model.subgraphs[0], tensor)] for tensor in (source, target))
    return [
        # The versions that take int16, the wider of the two types.
        conversion(model, "DEQUANTIZE", source, real.inputs[0], version=3),
        real,
        conversion(model, "QUANTIZE", real.outputs[0], target, version=2),
    ]
