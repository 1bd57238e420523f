"""Quantizers in ONNX files: laid out so that ONNX Runtime computes on integers, and read back.

ONNX Runtime makes integer kernels of the operators between DequantizeLinear and QuantizeLinear nodes, but
only of those it recognises. Where it does not, it dequantizes the weights on every run, and the model is
slower than the float one. What it wants to see was found by looking at the graphs it makes:

- a zero point beside every scale, zeros too;
- a weight that goes to its MatMul directly, not through a Transpose;
- a bias dequantized from int32, which then becomes part of an integer Gemm;
- activations of unsigned bytes: with signed ones it makes no integer convolution, addition or product on
  x86 where more than one operator reads what a quantizer gives. Both are the same numbers: every integer and
  the zero point are 128 larger.

Where it sees integer weights and activations that are not 8 bits, it brings the activations to 8 bits itself,
without being asked (its operator MatMulNBits), which is not what the Program computes. So such a matrix is
stored as a batch of one, which it does not recognise.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgevit.export.quantized import Parameters, Stored, grid, stored

Array = npt.NDArray[Any]

# What ONNX Runtime calls its kernels that multiply integers.
INTEGER_KERNELS = frozenset(
    {"QGemm", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "MatMulNBits"}
)

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# What is added to an int8 to make it the uint8 that stands for the same number.
_SHIFT = 128


def lay_out(model: ir.Model) -> None:
    """Write dequantizers as ONNX Runtime recognises them, in place.

    Given a linear layer as torch's exporter writes it::

        MatMul(x, Transpose(DequantizeLinear(weight (out, in), scales, axis=0)))

    Result::

        MatMul(x, DequantizeLinear(weight (in, out), scales, zeros, axis=1))

    and all int8 activations as uint8, but those that the file takes or gives.

    Args:
        model: as torch's exporter writes it.
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and _is_stored(node) and len(node.inputs) == 2:
            _take_in_transpose(node)
            if _meets_bytes(node):
                _state_zero_points(node)
            else:
                _make_batch_of_one(node)
        elif node.op_type in _QUANTIZERS and not _is_end(node):
            _make_unsigned(node)
    for name, value in list(model.graph.initializers.items()):
        if not (value.uses() or value.is_graph_output()):
            del model.graph.initializers[name]


def _is_stored(node: ir.Node) -> bool:
    values = node.inputs[0]
    return values is not None and values.is_initializer()


def _is_end(node: ir.Node) -> bool:
    """Whether integers that the file takes go in, or such that it gives come out."""
    values, result = node.inputs[0], node.outputs[0]
    integers = values if node.op_type == "DequantizeLinear" else result
    return integers is not None and (integers.is_graph_input() or integers.is_graph_output())


def _meets_bytes(node: ir.Node) -> bool:
    """Whether what a constant is multiplied with, or added to, comes from 8-bit integers."""
    return all(_reads_bytes(use.node) for use in node.outputs[0].uses())


def _reads_bytes(node: ir.Node) -> bool:
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    if source is not None and source.op_type == "MatMul" and node.op_type == "Add":
        return _reads_bytes(source)
    if source is None or source.op_type != "DequantizeLinear" or source.inputs[2] is None:
        return False
    return source.inputs[2].dtype in (ir.DataType.INT8, ir.DataType.UINT8)


def _take_in_transpose(node: ir.Node) -> None:
    """Store a matrix the other way round, where all that reads it is a Transpose."""
    values, result = node.inputs[0], node.outputs[0]
    readers = [use.node for use in result.uses()]
    if values is None or values.const_value is None or len(readers) != 1 or len(values.uses()) != 1:
        return
    (transpose,) = readers
    if transpose.op_type != "Transpose" or len(values.const_value.shape) != 2:
        return
    turned = np.ascontiguousarray(values.const_value.numpy().T)
    values.const_value = ir.tensor(turned, name=values.name)
    values.shape = result.shape = ir.Shape(turned.shape)
    node.attributes["axis"] = ir.AttrInt64("axis", 1 - node.attributes["axis"].as_int())
    transpose.outputs[0].replace_all_uses_with(result)
    _graph_of(node).remove(transpose, safe=True)


def _make_batch_of_one(node: ir.Node) -> None:
    """Store a MatMul's matrix with a first dimension of 1, which changes no result of tokens' layers."""
    values, result = node.inputs[0], node.outputs[0]
    users = [use.node for use in result.uses()]
    if values is None or values.const_value is None or len(values.uses()) != 1:
        return
    for user in users:
        shape = user.outputs[0].shape
        if user.op_type != "MatMul" or shape is None or len(shape) < 3:
            return
    raised = values.const_value.numpy()[None]
    values.const_value = ir.tensor(raised, name=values.name)
    values.shape = result.shape = ir.Shape(raised.shape)
    node.attributes["axis"] = ir.AttrInt64("axis", 1 + node.attributes["axis"].as_int())


def _state_zero_points(node: ir.Node) -> None:
    values, scales = node.inputs
    if values is None or values.dtype is None or scales is None or scales.shape is None:
        raise AssertionError(f"{node.name}: a type or a shape is not known")
    zeros = np.zeros(scales.shape.numpy(), values.dtype.numpy())
    node.resize_inputs(3)
    # One for each: ONNX Runtime, told to be exact on older x86, changes each together with its weight.
    node.replace_input_with(2, _initializer(node, f"{values.name}_zero_point", zeros))


def _make_unsigned(node: ir.Node) -> None:
    """Name an activation's integers 0 to 255 instead of -128 to 127."""
    for place in (0, 2):
        value = node.inputs[place]
        if value is not None and value.const_value is not None and value.dtype == ir.DataType.INT8:
            shifted = _unsigned(value.const_value.numpy())
            node.replace_input_with(place, _initializer(node, f"{value.name}_uint8", shifted))
        elif value is not None and value.dtype == ir.DataType.INT8:
            value.dtype = ir.DataType.UINT8
    if node.outputs[0].dtype == ir.DataType.INT8:
        node.outputs[0].dtype = ir.DataType.UINT8


def _unsigned(values: Array) -> npt.NDArray[np.uint8]:
    return (values.astype(np.int16) + _SHIFT).astype(np.uint8)


def _signed(values: Array) -> npt.NDArray[np.int8]:
    return (values.astype(np.int16) - _SHIFT).astype(np.int8)


def _initializer(node: ir.Node, name: str, values: Array) -> ir.Value:
    """A constant of the graph that a node is in, made once."""
    graph = _graph_of(node)
    if name not in graph.initializers:
        dtype = ir.TensorType(ir.DataType.from_numpy(values.dtype))
        tensor = ir.tensor(values, name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=ir.Shape(values.shape), type=dtype, const_value=tensor)
        )
    return graph.initializers[name]


def _graph_of(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name} is in no graph of the model")
    return node.graph


def parameters_in(content: bytes) -> Parameters:
    """What the quantizers of a serialised model are made of."""
    import onnx

    graph = onnx.load_model_from_string(content).graph
    constants = _constants(graph)
    found = Parameters()
    for node in graph.node:
        if node.op_type not in _QUANTIZERS:
            continue
        values, scales, *rest = (constants.get(name) for name in node.input)
        zero_points = rest[0] if rest else None
        if scales is not None and values is not None:
            found.stored[_stored(node, values, scales, zero_points)] += 1
        elif scales is not None and zero_points is not None:
            place = found.quantized if node.op_type == "QuantizeLinear" else found.dequantized
            zero_point = _as_in_program(zero_points)
            place[grid(scales, zero_point, str(zero_point.dtype))] += 1
        else:
            raise AssertionError(f"{node.name}: its scale and zero point are no constants")
    return found


def _stored(node: Any, values: Array, scales: Array, zero_points: Array | None = None) -> Stored:
    zero_points = np.zeros_like(scales, values.dtype) if zero_points is None else zero_points
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis" and scales.ndim]
    if axes == [2] and values.shape[0] == 1:
        # A matrix as a batch of one.
        values, axes = values[0], [1]
    axis = axes[0] if axes else None
    return stored(_as_in_program(values), scales, axis=axis, zero_points=_as_in_program(zero_points))


def _as_in_program(integers: Array) -> Array:
    return _signed(integers) if integers.dtype == np.uint8 else integers


def _constants(graph: Any) -> dict[str, Array]:
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def kernels(path: Path) -> dict[str, int]:
    """How often each of the `INTEGER_KERNELS` stands in the graph that ONNX Runtime makes of a file here.

    And, as ``weights_dequantized_on_every_run``, how many integer weights it multiplies as floats: slower
    than a float model, which has them as floats already.
    """
    graph = _optimised(path)
    counts = Counter(node.op_type for node in graph.node if node.op_type in INTEGER_KERNELS)
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    dequantized = sum(node.op_type == "DequantizeLinear" and node.input[0] in matrices for node in graph.node)
    return {**dict(sorted(counts.items())), "weights_dequantized_on_every_run": dequantized}


def _optimised(path: Path) -> Any:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph
