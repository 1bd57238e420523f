"""TFLite flatbuffers as objects: read, written, and asked for their operators and constants."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgevit.export.tflite.check import IDENTIFIER

# schema.fbs: `Buffer.data` is force_align: 16, so that weights can be used where they lie.
_BUFFER_ALIGNMENT = 16

_OPERATORS: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]  # untyped
    """The generated Python code does not know of force_align; byte vectors are the buffers."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
        if elemSize == 1:
            alignment = _BUFFER_ALIGNMENT
        return super().StartVector(elemSize, numElems, alignment)


def parse(content: bytes) -> Any:
    """A flatbuffer as a ``ModelT`` object."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def serialise(model: Any) -> bytes:
    """A ``ModelT`` object as a flatbuffer."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def operator_name(model: Any, operator: Any) -> str:
    """An operator's name as in the schema, ``CONV_2D``."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Files from before the schema's version 3a have their code in the older, one-byte field.
    return _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def shape_of(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape."""
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


_NUMPY_TYPES: dict[int, npt.DTypeLike] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}


def constant(model: Any, tensor: Any) -> npt.NDArray[Any] | None:
    """A tensor's values, where they are in the file and of a plain numeric type."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0 or tensor.type not in _NUMPY_TYPES:
        return None
    return np.frombuffer(bytes(data), dtype=_NUMPY_TYPES[tensor.type]).reshape(shape_of(tensor))


def add_buffer(model: Any, values: npt.NDArray[Any]) -> int:
    """Add a constant's values to the file; returns the buffer's index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def add_constant(model: Any, graph: Any, values: npt.NDArray[Any], name: str) -> int:
    """Add a constant to the file; returns the index of its tensor in the graph."""
    kinds = {np.dtype(kind): code for code, kind in _NUMPY_TYPES.items()}
    return add_tensor(graph, values.shape, kinds[values.dtype], name, buffer=add_buffer(model, values))


def add_tensor(graph: Any, shape: tuple[int, ...], kind: int, name: str, *, buffer: int = 0) -> int:
    """Add a tensor; buffer 0 is the schema's empty one. Returns its index."""
    tensor = schema.TensorT()
    tensor.shape = np.array(shape, dtype=np.int32)
    tensor.type = kind
    tensor.name = name.encode()
    tensor.buffer = buffer
    tensor.hasRank = True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_float_like(graph: Any, tensor: int) -> int:
    """Add a float32 tensor of another's shape; returns its index."""
    like = graph.tensors[tensor]
    return add_tensor(graph, shape_of(like), schema.TensorType.FLOAT32, f"{like.name.decode()};float32")


def opcode(model: Any, builtin: int, *, version: int = 1) -> int:
    """Index of an operator's code in the file, added where it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def conversion(model: Any, name: str, source: int, target: int, *, version: int) -> Any:
    """A QUANTIZE or DEQUANTIZE from one tensor to another, for the caller to place."""
    options = {"QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions"}[name]
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, getattr(schema.BuiltinOperator, name), version=version)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()
    operator.inputs, operator.outputs = [source], [target]
    return operator


def prune(model: Any) -> None:
    """Drop the tensors, buffers and operator codes that nothing uses, in place."""
    for index, graph in enumerate(model.subgraphs):
        used = {int(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for operator in graph.operators:
            used.update(int(tensor) for tensor in (*operator.inputs, *operator.outputs))
        renumbered = _renumber(used - {-1}) | {-1: -1}
        graph.tensors = [tensor for old, tensor in enumerate(graph.tensors) if old in renumbered]
        for holder in (graph, *graph.operators):
            holder.inputs = [renumbered[int(tensor)] for tensor in holder.inputs]
            holder.outputs = [renumbered[int(tensor)] for tensor in holder.outputs]
        for signature in model.signatureDefs or []:
            if signature.subgraphIndex == index:
                for tensor_map in (*signature.inputs, *signature.outputs):
                    tensor_map.tensorIndex = renumbered[tensor_map.tensorIndex]
    _prune_buffers(model)
    codes = _renumber({op.opcodeIndex for graph in model.subgraphs for op in graph.operators})
    model.operatorCodes = [code for old, code in enumerate(model.operatorCodes) if old in codes]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]


def _prune_buffers(model: Any) -> None:
    holders = [tensor for graph in model.subgraphs for tensor in graph.tensors] + (model.metadata or [])
    # Buffer 0 is the schema's empty one, whoever uses it.
    buffers = _renumber({0, *(holder.buffer for holder in holders), *(model.metadataBuffer or [])})
    model.buffers = [buffer for old, buffer in enumerate(model.buffers) if old in buffers]
    for holder in holders:
        holder.buffer = buffers[holder.buffer]
    if model.metadataBuffer is not None:
        model.metadataBuffer = [buffers[int(buffer)] for buffer in model.metadataBuffer]


def _renumber(used: set[int]) -> dict[int, int]:
    """New indices, without gaps, of those in use."""
    return {old: new for new, old in enumerate(sorted(used))}
