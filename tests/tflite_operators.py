"""TFLite files of one operator each, and what LiteRT's interpreter does with a file's operators."""

from __future__ import annotations

from typing import Any

import numpy as np

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}


class Live:
    """A tensor that comes in at run time; 8-bit ones have a scale, as quantized models' do."""

    def __init__(self, *shape: int, dtype: str = "float32") -> None:
        self.shape, self.dtype, self.values = shape, dtype, None
        self.scale = 1 / 256 if dtype in ("int8", "uint8", "int16") else None


class Const(Live):
    """A tensor whose values are in the file; `scale` makes integers of more than 8 bits quantized ones."""

    def __init__(self, values: Any, dtype: str = "float32", scale: float | None = None) -> None:
        array = np.asarray(values, dtype=dtype)
        super().__init__(*array.shape, dtype=dtype)
        self.values, self.scale = array, self.scale if scale is None else scale


def ints(*values: int) -> Const:
    """A vector of integers: axes, a shape, a permutation."""
    return Const(values, "int32")


def one_operator(kind: str, inputs: list[Live], outputs: list[Live], **options: Any) -> bytes:
    """A file with one operator; `options` are the fields of its options in the schema."""
    from ai_edge_litert import schema_py_generated as schema

    from edgevit.export.tflite.model import serialise

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    graph.tensors = [_tensor(model, schema, item, f"t{i}") for i, item in enumerate([*inputs, *outputs])]
    graph.inputs = [index for index, item in enumerate(inputs) if item.values is None]
    graph.outputs = list(range(len(inputs), len(inputs) + len(outputs)))
    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), options.pop("version", 1)
    operator.opcodeIndex, operator.inputs = 0, list(range(len(inputs)))
    operator.outputs = graph.outputs
    name = options.pop("table", None) or _options_name(kind)
    if hasattr(schema, f"{name}T"):
        operator.builtinOptions = getattr(schema, f"{name}T")()
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        for field, value in options.items():
            assert hasattr(operator.builtinOptions, field), field
            setattr(operator.builtinOptions, field, value)
    graph.operators, model.operatorCodes = [operator], [code]
    return serialise(model)


def _options_name(kind: str) -> str:
    special = {
        "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "CONV_2D": "Conv2D",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "MEAN": "Reducer", "SUM": "Reducer",
        "REDUCE_MAX": "Reducer", "REDUCE_MIN": "Reducer", "BATCH_MATMUL": "BatchMatMul",
        "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "FULLY_CONNECTED": "FullyConnected",
    }  # fmt: skip
    return special.get(kind, kind.title().replace("_", "")) + "Options"


def _tensor(model: Any, schema: Any, item: Live, name: str) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = np.array(item.shape, np.int32), TYPES[item.dtype], name.encode()
    tensor.hasRank, tensor.buffer = True, 0
    if item.scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([item.scale], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
    if item.values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(item.values.tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    return tensor


def delegated(content: bytes) -> tuple[list[tuple[str, bool]], int]:
    """Each operator of a file with whether XNNPACK took it, and the number of XNNPACK's partitions.

    An operator that the interpreter runs itself leaves its outputs where they can be read. One inside
    a partition does not, unless they leave the partition: then they are listed as the partition's.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    leaving = {int(index) for node in partitions for index in node["outputs"]}
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    inside = [int(node["outputs"][0]) in leaving or not _readable(interpreter, node) for node in operators]
    return [(node["op_name"], taken) for node, taken in zip(operators, inside, strict=True)], len(partitions)


def _readable(interpreter: Any, node: Any) -> bool:
    try:
        interpreter.get_tensor(int(node["outputs"][0]))
    except ValueError:
        return False
    return True
