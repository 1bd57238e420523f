"""Whether a file carries a Program's quantization: every integer and every scale of it, to the bit.

The converter is trusted with none of them. It folds, fuses and moves quantizers; what it made is read back
and compared, and what it left as float numbers is stored as the integers that they are.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgevit.errors import EdgevitError
from edgevit.export.tflite.kernels import (
    CHANNELS,
    Array,
    IntegerLayer,
    Kernel,
    activation_grids,
    channels_first,
    grids_of,
    kernels_in,
    layer_operators,
    layers_of,
)
from edgevit.export.tflite.model import add_buffer, add_tensor, constant, conversion, opcode, prune
from edgevit.graph.program import Program

# The last versions of operators before the one whose 16-bit kernels take a bias of 32 bits.
_OLDER = {schema.BuiltinOperator.CONV_2D: 7, schema.BuiltinOperator.FULLY_CONNECTED: 10}
# The first version of an operator that takes floats and integer weights with a scale for each channel.
_HYBRID = 12
# Of a bias that float32, in which the converter gets it, cannot hold.
_BIAS_ROUNDING = 2.0**-22


def carry_integers(model: Any, program: Program) -> dict[str, Any]:
    """Store what the converter left as floats, compare everything, and say what came of it.

    Args:
        model: the ``ModelT`` that was made of the program, changed in place.
        program: the quantized program.

    Returns:
        Options for the artefact's description: in how many of its layers integers go in and come out, and
        which do not although the program's do.

    Raises:
        EdgevitError: when an integer weight, a bias, a scale or a zero point is not the program's.
    """
    layers = layers_of(program)
    _store_weights(model, layers)
    kernels = kernels_in(model)
    pairs = _paired(layers, kernels, program.card.name)
    for layer, kernel in pairs:
        _carry_bias(model, layer, kernel)
    _require_no_more(model)
    _check_grids(model, program)
    integer, all_layers = sum(kernel.is_integer for kernel in kernels), len([*layer_operators(model)])
    described: dict[str, Any] = {"integer_layers": f"{integer} of {all_layers}"}
    floats = [layer.name for layer, kernel in pairs if layer.is_integer and not kernel.is_integer]
    described |= {"float_layers": floats} if floats else {}
    dynamic = sum(kernel.dynamic for kernel in kernels)
    return described | ({"dynamic_layers": f"{dynamic} of {all_layers}"} if dynamic else {})


def _store_weights(model: Any, layers: list[IntegerLayer]) -> None:
    """Integers in the place of the weights of float kernels.

    Given::

        FULLY_CONNECTED(x, float32 weight)

    Result, with an operator that unpacks them once; without one where the kernel quantizes what it reads::

        FULLY_CONNECTED(x, DEQUANTIZE(int8 weight))        FULLY_CONNECTED(x, int8 weight)
    """
    graph = model.subgraphs[0]
    packed = {(layer.weight * layer.scales[:, None]).tobytes(): layer for layer in layers}
    unpacking: dict[int, Any] = {}
    for name, operator in layer_operators(model):
        index = int(operator.inputs[1])
        values = constant(model, graph.tensors[index])
        if index in unpacking or values is None or values.dtype != np.float32:
            continue
        layer = packed.get(channels_first(values, CHANNELS[name]).tobytes())
        if layer is not None and layer.dynamic:
            _make_dynamic(model, operator, _stored(model, index, layer, CHANNELS[name]))
        elif layer is not None:
            unpacking[index] = _unpacked(model, index, layer, CHANNELS[name])
    graph.operators = [*unpacking.values(), *graph.operators]
    prune(model)


def _make_dynamic(model: Any, operator: Any, weight: int) -> None:
    """Let a FULLY_CONNECTED multiply integers by floats, which it then quantizes row by row as it runs."""
    operator.inputs = [operator.inputs[0], weight, *operator.inputs[2:]]
    operator.builtinOptions.asymmetricQuantizeInputs = True
    operator.opcodeIndex = opcode(model, schema.BuiltinOperator.FULLY_CONNECTED, version=_HYBRID)


def _unpacked(model: Any, index: int, layer: IntegerLayer, axis: int) -> Any:
    """Make a constant the output of an operator that unpacks a layer's integers."""
    stored = _stored(model, index, layer, axis)
    model.subgraphs[0].tensors[index].buffer = 0
    # The operator's version 5 is the first that takes a scale for each channel.
    return conversion(model, "DEQUANTIZE", stored, index, version=5)


def _stored(model: Any, index: int, layer: IntegerLayer, axis: int) -> int:
    """A layer's integers, laid out as the constant that stands for them; the tensor's index."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[index]
    shape = tuple(int(size) for size in tensor.shape)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    values = np.moveaxis(layer.weight.reshape(moved), 0, axis)
    name = f"{tensor.name.decode()};int8"
    stored = add_tensor(graph, shape, schema.TensorType.INT8, name, buffer=add_buffer(model, values))
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.quantizedDimension = layer.scales, axis
    quantization.zeroPoint = np.zeros(len(layer.scales), dtype=np.int64)
    graph.tensors[stored].quantization = quantization
    return stored


def _paired(
    layers: list[IntegerLayer], kernels: list[Kernel], name: str
) -> list[tuple[IntegerLayer, Kernel]]:
    """Every layer with its kernel: of its weight, and where it is integer, of its bias and grids."""
    left: dict[tuple[bytes, bytes], list[IntegerLayer]] = defaultdict(list)
    for layer in layers:
        left[layer.key].append(layer)
    pairs = []
    for kernel in kernels:
        candidates = left[kernel.key]
        differences = [_difference(layer, kernel) for layer in candidates]
        if None not in differences:
            different = f"the integer weight or the scales of {kernel.name} are not the program's"
            raise _changed(name, next(iter(differences), None) or different)
        pairs.append((candidates.pop(differences.index(None)), kernel))
    missing = [layer.name for candidates in left.values() for layer in candidates]
    if missing:
        raise _changed(name, f"the file has no layer with the integer weight of {missing[0]}")
    return pairs


def _difference(layer: IntegerLayer, kernel: Kernel) -> str | None:
    """What an integer kernel has that the layer has not; of a float one the weight is all that counts."""
    if layer.dynamic != kernel.dynamic:
        does = "does" if kernel.dynamic else "does not"
        return f"{layer.name} {does} quantize what it reads as it runs"
    if not kernel.is_integer:
        return None
    if layer.input != kernel.input:
        return f"{layer.name} reads {kernel.input}, not {layer.input}"
    if layer.output != kernel.output:
        return f"{layer.name} writes {kernel.output}, not {layer.output}"
    wanted, found = _biases(layer, kernel)
    if (np.abs(found - wanted) > np.abs(wanted) * _BIAS_ROUNDING).any():
        return f"the integer bias of {layer.name} is another"
    return None


def _biases(layer: IntegerLayer, kernel: Kernel) -> tuple[Array, Array]:
    """What a layer adds and what its kernel does, zeros where there is nothing, exact in float64."""
    zeros = np.zeros(len(layer.weight))
    wanted, found = (zeros if bias is None else bias for bias in (layer.bias, kernel.bias))
    return wanted.astype(np.float64), found.astype(np.float64)


def _carry_bias(model: Any, layer: IntegerLayer, kernel: Kernel) -> None:
    """Write the bits of a bias that were lost on its way through float32, as its kernel wants them.

    Where the layer has none the converter may have written zeros.
    """
    if kernel.input is None or not kernel.is_integer or kernel.bias is None:
        return
    # Kernels of 16-bit activations add in 64 bits; some of them take no bias of 32, others read beyond it.
    wide = kernel.input.dtype == "int16"
    bias = np.zeros_like(kernel.bias) if layer.bias is None else layer.bias
    wanted = bias.astype(np.int64 if wide else np.int32)
    if wanted.tobytes() != kernel.bias.tobytes():
        kernel.bias_tensor.type = schema.TensorType.INT64 if wide else schema.TensorType.INT32
        kernel.bias_tensor.buffer = add_buffer(model, wanted)


def _require_no_more(model: Any) -> None:
    """Take back what the converter asks of a runtime for biases of 32 bits that are not there any more."""
    for code in model.operatorCodes:
        older = _OLDER.get(code.builtinCode)
        if older is not None and code.version == older + 1:
            code.version = older


def _check_grids(model: Any, program: Program) -> None:
    wanted, found = grids_of(program), activation_grids(model)
    for grid in sorted(found - wanted):
        raise _changed(program.card.name, f"the file has a tensor of {grid}, which the program has not")
    for grid in sorted(wanted - found):
        raise _changed(program.card.name, f"nothing in the file is {grid}, as something in the program is")


def _changed(name: str, what: str) -> EdgevitError:
    return EdgevitError(f"{name} cannot be written as TFLite: the converter changed its quantization: {what}")
