"""Operators of an ONNX file, with shapes and types inferred where the file does not say them."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.export.placement.operators import MOST_VALUES, Operand, Operator, Scalar, printable


def read_onnx(path: Path) -> tuple[Operator, ...]:
    """The operators of a file's main graph, in its order.

    Functions that the file defines are opened; bodies of `If` and `Loop` are not looked into, and
    `Constant` is a constant, not an operator.

    Raises:
        EdgevitError: when it is no sound ONNX file.
        MissingDependencyError: without the ``onnx`` extra.
    """
    onnx = extras.load("onnx", "onnx", f"reading {path}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(str(path))
        if model.functions:
            model = importlib.import_module("onnx.inliner").inline_local_functions(model)
        graph = onnx.shape_inference.infer_shapes(model).graph
    # protobuf's, the checker's and the inference's errors share no base class below Exception.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EdgevitError(f"{path} is not a sound ONNX file (damaged or truncated): {reason}") from error
    return _Reader(onnx, graph).operators()


class _Reader:
    """A graph's nodes as records; `known` has the operand of every value by its name, slot aside."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        self._known: dict[str, Operand] = {
            info.name: self._declared(info) for info in (*graph.input, *graph.value_info, *graph.output)
        }
        self._known.update({tensor.name: self._constant(tensor) for tensor in graph.initializer})

    def operators(self) -> tuple[Operator, ...]:
        found = []
        for node in self._graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._known[node.output[0]] = self._constant_node(node)
            else:
                found.append(self._operator(node))
        return tuple(found)

    def _operator(self, node: Any) -> Operator:
        inputs = tuple(self._operand(str(slot), name) for slot, name in enumerate(node.input) if name)
        if inputs and all(operand.constant for operand in inputs):
            for name in filter(None, node.output):
                self._known[name] = dataclasses.replace(self._operand("0", name), constant=True)
        outputs = tuple(
            dataclasses.replace(self._operand(str(slot), name), constant=False, values=None)
            for slot, name in enumerate(node.output)
            if name
        )
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"
        return Operator(printable(kind), inputs, outputs, _attributes(self._onnx, node))

    def _operand(self, slot: str, name: str) -> Operand:
        known = self._known.get(name, Operand("0", "unknown", None))
        return dataclasses.replace(known, slot=slot)

    def _declared(self, info: Any) -> Operand:
        tensor = info.type.tensor_type
        if info.type.WhichOneof("value") != "tensor_type":
            return Operand("0", info.type.WhichOneof("value") or "unknown", None)
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        return Operand("0", self._dtype(tensor.elem_type), tuple(sizes) if tensor.HasField("shape") else None)

    def _constant(self, tensor: Any) -> Operand:
        shape, values = tuple(tensor.dims), None
        external = tensor.data_location == self._onnx.TensorProto.EXTERNAL
        if int(np.prod(shape)) <= MOST_VALUES and not external:
            array = self._onnx.numpy_helper.to_array(tensor)
            values = tuple(array.ravel().tolist()) if array.dtype.kind in "fiub" else None
        return Operand("0", self._dtype(tensor.data_type), shape, constant=True, values=values)

    def _constant_node(self, node: Any) -> Operand:
        attribute = node.attribute[0]
        if attribute.name == "value":
            return self._constant(attribute.t)
        return dataclasses.replace(self._operand("0", node.output[0]), constant=True)

    def _dtype(self, element: int) -> str:
        name = self._onnx.TensorProto.DataType.Name(element).lower()
        return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, str(name))


def _attributes(onnx: Any, node: Any) -> Mapping[str, Scalar]:
    found: dict[str, Scalar] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            found[attribute.name] = value.decode("utf-8", "replace")
        elif isinstance(value, int | float):
            found[attribute.name] = value
    return found
