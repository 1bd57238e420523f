"""Float16 weights: half the file, computed in float32.

The convention that every TFLite runtime knows: a float16 constant and a DEQUANTIZE, which the interpreter
runs once and delegates with float16 arithmetic leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgevit.export.tflite.model import add_buffer, add_tensor, constant, conversion, prune

# What makes a file large is tensors, not scalars and biases: those keep every bit.
_SMALLEST = 1024
_LARGEST_VALUE = float(np.finfo(np.float16).max)


def halve_weights(model: Any) -> None:
    """Store a model's large float32 constants as float16, in place.

    Constants of fewer than 1024 values, and those with a value that float16 cannot hold, stay.

    Args:
        model: a ``ModelT``.
    """
    halved: dict[int, int] = {}
    for graph in model.subgraphs:
        dequantize = []
        for index in range(len(graph.tensors)):
            tensor = graph.tensors[index]
            values = constant(model, tensor)
            if values is None or not _fits(values):
                continue
            if tensor.buffer not in halved:
                halved[tensor.buffer] = add_buffer(model, values.astype(np.float16))
            name = f"{tensor.name.decode()};float16"
            kind = schema.TensorType.FLOAT16
            source = add_tensor(graph, values.shape, kind, name, buffer=halved[tensor.buffer])
            tensor.buffer = 0
            # The operator's version 3 is the first that takes float16.
            dequantize.append(conversion(model, "DEQUANTIZE", source, index, version=3))
        graph.operators = [*dequantize, *graph.operators]
    prune(model)


def _fits(values: Any) -> bool:
    return bool(
        values.dtype == np.float32 and values.size >= _SMALLEST and np.abs(values).max() <= _LARGEST_VALUE
    )
