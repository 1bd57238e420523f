"""Operators of a TFLite file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.export.placement.operators import MOST_VALUES, Operand, Operator, Scalar, printable
from edgevit.export.tflite.check import checked_model


def read_tflite(path: Path) -> tuple[Operator, ...]:
    """The operators of a file's main graph, in the order in which they run.

    Raises:
        EdgevitError: when it is no sound TFLite file.
        MissingDependencyError: without the ``tflite`` extra.
    """
    extras.require("tflite", f"reading {path}")
    from edgevit.export.tflite.model import parse

    model = parse(checked_model(path.read_bytes(), str(path)))
    return _Reader(model, model.subgraphs[0]).operators()


class _Reader:
    """A graph's operators as records; `fixed` are the tensors whose values the file determines."""

    def __init__(self, model: Any, graph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._graph = model, graph
        self._dtypes = _names(schema.TensorType)
        self._activations = _names(schema.ActivationFunctionType)
        self._fixed = {
            index for index, tensor in enumerate(graph.tensors) if _has_data(model.buffers[tensor.buffer])
        }

    def operators(self) -> tuple[Operator, ...]:
        return tuple(self._operator(operator) for operator in self._graph.operators)

    def _operator(self, operator: Any) -> Operator:
        from edgevit.export.tflite.model import operator_name

        given = [(str(slot), int(index)) for slot, index in enumerate(operator.inputs) if index != -1]
        inputs = tuple(self._operand(slot, index) for slot, index in given)
        outputs = tuple(self._operand(str(slot), int(index)) for slot, index in enumerate(operator.outputs))
        if inputs and all(operand.constant for operand in inputs):
            self._fixed.update(map(int, operator.outputs))
        kind = operator_name(self._model, operator)
        if kind == "CUSTOM":
            code = self._model.operatorCodes[operator.opcodeIndex].customCode or b""
            kind = f"CUSTOM:{printable(code.decode('utf-8', 'replace'))}"
        return Operator(kind, inputs, outputs, self._attributes(operator.builtinOptions))

    def _operand(self, slot: str, index: int) -> Operand:
        from edgevit.export.tflite.model import constant, shape_of

        tensor = self._graph.tensors[index]
        shape = shape_of(tensor)
        signature = tensor.shapeSignature
        # A size of -1 in the signature is one that the caller chooses; the shape then has a placeholder.
        sizes = shape if signature is None or len(signature) != len(shape) else tuple(map(int, signature))
        array = constant(self._model, tensor) if index in self._fixed else None
        values = tuple(array.ravel().tolist()) if array is not None and array.size <= MOST_VALUES else None
        return Operand(
            slot=slot,
            dtype=self._dtypes[tensor.type].lower(),
            shape=tuple(None if size < 0 else size for size in sizes),
            constant=index in self._fixed,
            values=values,
        )

    def _attributes(self, options: Any) -> Mapping[str, Scalar]:
        found: dict[str, Scalar] = {}
        for name, value in vars(options).items() if options is not None else ():
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
            if snake == "fused_activation_function":
                found[snake] = self._activations[value]
            elif isinstance(value, bool | int | float):
                found[snake] = value
        return found


def _names(enumeration: Any) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}


def _has_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0
