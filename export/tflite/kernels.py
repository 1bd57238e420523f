"""Layers with integer weights, read alike from a quantized graph and from a TFLite file, to be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema
from torch.fx import Node

from edgevit.export.quantized import DEQUANTIZE, DEQUANTIZE_STORED, QUANTIZE
from edgevit.export.tflite.model import constant, operator_name
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, is_call
from edgevit.quant.dynamic import DEQUANTIZE_TOKENS
from edgevit.quant.operators import FUSED_ACTIVATIONS, LAYERS, MOVES, Layer

Array = npt.NDArray[Any]

# The kernels that multiply by a constant, and the dimension of their weight's output channels.
CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_INTEGERS = {schema.TensorType.INT8: "int8", schema.TensorType.INT16: "int16"}


class Grid(NamedTuple):
    """The integers of an activation: equal where scale (to the bit), zero point and type are."""

    scale: float
    zero_point: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} with scale {self.scale:.9g} and zero point {self.zero_point}"


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer whose weight is integers.

    Attributes:
        name: of the operator in the graph, or of the tensor that it writes in the file.
        weight: int8 (channels, the rest), every channel's values in the order height, width, input.
        scales: float32 (channels,).
        bias: int32 (channels,), or None where there is none or it is float.
        input: the grid of what it reads; None where that is float.
        output: the grid of what it writes, an activation function included; None where that is float.
        dynamic: whether it brings what it reads, floats, to integers as it runs.
    """

    name: str
    weight: Array
    scales: Array
    bias: Array | None
    input: Grid | None
    output: Grid | None
    dynamic: bool

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for two layers exactly where the weights' integers and scales are, to the bit."""
        return self.weight.tobytes(), self.scales.tobytes()

    @property
    def is_integer(self) -> bool:
        """Whether integers go in and come out."""
        return self.input is not None and self.output is not None


@dataclass(frozen=True, eq=False)
class Kernel(IntegerLayer):
    """A layer in a file, with the tensor of its bias."""

    bias_tensor: Any


def channels_first(weight: Array, axis: int) -> Array:
    """A weight as (channels, the rest)."""
    return np.ascontiguousarray(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1))


# In the graph.


def layers_of(program: Program) -> list[IntegerLayer]:
    """The layers of a quantized graph, in order."""
    editor = Editor(program)
    return [
        _layer(editor, node, LAYERS[node.target])
        for node in editor.graph.nodes
        if is_call(node, LAYERS) and is_call(_argument(node, LAYERS[node.target].weight), {DEQUANTIZE_STORED})
    ]


def grids_of(program: Program) -> set[Grid]:
    """The grids of a quantized graph's activations."""
    return {grid_of(node) for node in program.graph.nodes if is_call(node, {QUANTIZE})}


def _layer(editor: Editor, node: Node, layer: Layer) -> IntegerLayer:
    weight = _argument(node, layer.weight)
    stored, scales = (_value(editor, source) for source in weight.all_input_nodes[:2])
    # The file has the input channels last.
    moved = np.moveaxis(stored, 1, -1)
    source = _argument(node, layer.input)
    return IntegerLayer(
        name=node.name,
        weight=channels_first(moved, 0),
        scales=scales,
        bias=_bias(editor, node, layer),
        input=grid_of(source) if is_call(source, {DEQUANTIZE}) else None,
        output=_written(node),
        dynamic=is_call(source, {DEQUANTIZE_TOKENS}),
    )


def _bias(editor: Editor, node: Node, layer: Layer) -> Array | None:
    bias = node.args[layer.bias] if len(node.args) > layer.bias else node.kwargs.get("bias")
    if not (isinstance(bias, Node) and is_call(bias, {DEQUANTIZE_STORED})):
        return None
    return _value(editor, bias.all_input_nodes[0])


def _written(node: Node) -> Grid | None:
    """The one grid on which all that read a layer find its result; None where anything reads floats."""
    grids = grids_read(node)
    return grids.pop() if len(grids) == 1 else None


def grids_read(node: Node) -> set[Grid | None]:
    """The grids that a value is brought to, behind an activation function or wherever it is moved."""
    grids: set[Grid | None] = set()
    for user in node.users:
        if is_call(user, {QUANTIZE}):
            grids.add(grid_of(user))
        elif is_call(user, MOVES) or (len(node.users) == 1 and is_call(user, FUSED_ACTIVATIONS)):
            grids |= grids_read(user)
        else:
            grids.add(None)
    return grids


def grid_of(node: Node) -> Grid:
    """The grid of a quantizer, or of what takes it back."""
    _, scale, zero_point, *_, dtype = node.args
    return Grid(float(np.float32(scale)), int(zero_point), str(dtype).removeprefix("torch."))  # type: ignore[arg-type]


def _argument(node: Node, index: int) -> Node:
    argument = node.args[index]
    if not isinstance(argument, Node):
        raise TypeError(f"{node.format_node()}: argument {index} is no tensor")
    return argument


def _value(editor: Editor, node: Node) -> Array:
    value = editor.value(node)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{node.format_node()} is no constant")
    return value.numpy()


# In the file.


def kernels_in(model: Any) -> list[Kernel]:
    """The layers of a file's first graph that have integer weights, in order."""
    graph = model.subgraphs[0]
    unpacked = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if operator_name(model, operator) == "DEQUANTIZE"
    }
    found = []
    for name, operator in layer_operators(model):
        index = int(operator.inputs[1])
        tensor = graph.tensors[unpacked.get(index, index)]
        values = constant(model, tensor)
        if values is not None and values.dtype == np.int8:
            weight = channels_first(values, CHANNELS[name])
            found.append(_kernel(model, operator, tensor, weight, unpacked=index in unpacked))
    return found


def layer_operators(model: Any) -> Iterator[tuple[str, Any]]:
    """The operators of a file's first graph that can have a weight, with their names."""
    for operator in model.subgraphs[0].operators:
        name = operator_name(model, operator)
        if name in CHANNELS:
            yield name, operator


def activation_grids(model: Any) -> set[Grid]:
    """The grids of all integer tensors of a file's first graph that are no layer's weight, and no number.

    Where an activation is multiplied by one number the converter puts that on a grid that holds it exactly.
    """
    graph = model.subgraphs[0]
    weights = {int(operator.inputs[1]) for _, operator in layer_operators(model)}
    weights |= {
        int(operator.inputs[0])
        for operator in graph.operators
        if operator_name(model, operator) == "DEQUANTIZE" and int(operator.outputs[0]) in weights
    }
    return {
        grid
        for index, tensor in enumerate(graph.tensors)
        if index not in weights and not _is_number(model, tensor) and (grid := grid_in(tensor)) is not None
    }


def _is_number(model: Any, tensor: Any) -> bool:
    values = constant(model, tensor)
    return values is not None and values.size == 1


def grid_in(tensor: Any) -> Grid | None:
    """The grid of a file's tensor; None where it is float, or integers that stand for themselves."""
    quantization = tensor.quantization
    if tensor.type not in _INTEGERS or quantization is None or quantization.scale is None:
        return None
    return Grid(float(quantization.scale[0]), int(quantization.zeroPoint[0]), _INTEGERS[tensor.type])


def _kernel(model: Any, operator: Any, weight: Any, values: Array, *, unpacked: bool) -> Kernel:
    tensors = model.subgraphs[0].tensors
    read = tensors[int(operator.inputs[0])]
    bias = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
    stored = constant(model, tensors[bias]) if bias >= 0 else None
    output = tensors[int(operator.outputs[0])]
    return Kernel(
        name=output.name.decode(),
        weight=values,
        scales=np.broadcast_to(np.asarray(weight.quantization.scale, dtype=np.float32), len(values)).copy(),
        bias=stored if stored is not None and stored.dtype != np.float32 else None,
        input=grid_in(read),
        output=grid_in(output),
        # Integers times floats is what a runtime quantizes by itself.
        dynamic=not unpacked and read.type == schema.TensorType.FLOAT32,
        bias_tensor=tensors[bias] if bias >= 0 else None,
    )
