"""Operators of an ONNX file as ONNX Runtime runs them."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevit.prediction.operations import Operation, depthwise, in_one_model
from edgevit.profiling.blocks import originals
from edgevit.profiling.measurements import Shape

# Bytes of a value by ONNX Runtime's name of its type; any other has four.
_BYTES = {"int8": 1, "uint8": 1, "bool": 1, "float16": 2, "int16": 2, "uint16": 2, "int64": 8, "double": 8}

# What ONNX Runtime puts behind the name of a convolution of which it makes one of integers.
_TOKEN = re.compile(r"_token_\d+$")


class OnnxOperators:
    """Turns nodes of a file, as ONNX Runtime reports them, into operations.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        quantized = {
            node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"
        }
        # The kernel of each convolution: the runtime packs it, and then says no more of it.
        self._kernels = {
            node.name: constants.get(quantized.get(node.input[1], node.input[1]), ())
            for node in graph.node
            if node.op_type == "Conv"
        }

    def operation(self, name: str, kind: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Operation:
        """One node.

        Args:
            name: in the runtime's graph.
            kind: of operator.
            inputs: types and sizes of what it reads, but for weights that were packed.
            outputs: likewise of what it gives.
        """
        first = inputs[0] if inputs else outputs[0]
        # One with an activation in it is as fast as one without.
        kind = kind.replace("FusedConv", "Conv")
        label, written = f"{kind} {first[0]}", _bytes(outputs)
        if "Conv" in kind:
            kernel = next((sizes for _, sizes in inputs[1:] if len(sizes) >= 3), None) or self._kernel(name)
            return _convolution(label, first, kernel, outputs[0][1], written)
        if "MatMul" in kind or "Gemm" in kind:
            return _product(label, inputs, outputs[0][1], written)
        return Operation(label, 0, _bytes(inputs), written, 0)

    def _kernel(self, name: str) -> Sequence[int]:
        names = originals(_TOKEN.sub("", name))
        return next((self._kernels[each] for each in names if each in self._kernels), ())


def _convolution(
    label: str, image: Shape, kernel: Sequence[int], result: Sequence[int], written: int
) -> Operation:
    # Out channels, in channels of a group, sides.
    outputs, each = (kernel[0] if kernel else 0), math.prod(kernel[1:])
    last = result[-1] == outputs != result[1]
    shape = "pointwise" if set(kernel[2:]) == {1} else "dense"
    if tuple(kernel[1:2]) == (1,):
        shape = depthwise(kernel[2:], image[1][-1 if last else 1], outputs)
    # Of integers there are two kernels, and the other order is much slower.
    order = " channels last" if last else ""
    weights = math.prod(kernel) * _BYTES.get(image[0], 4)
    return Operation(f"{label} {shape}{order}", math.prod(result) * each, _bytes([image]), written, weights)


def _product(label: str, inputs: Sequence[Shape], result: Sequence[int], written: int) -> Operation:
    """Rows times columns times what they have in common; a second matrix is weights or was computed."""
    kind, left = inputs[0]
    width = math.prod(left) // max(1, math.prod(result[:-1]))
    size = _BYTES.get(kind, 4)
    macs = math.prod(result) * width
    second = next((sizes for _, sizes in inputs[1:] if len(sizes) > 2), None)
    if second is None:
        return Operation(label, macs, math.prod(left) * size, written, width * result[-1] * size)
    return Operation(f"{label} computed", macs, (math.prod(left) + math.prod(second)) * size, written, 0)


def _bytes(shapes: Iterable[Shape]) -> int:
    return sum(math.prod(sizes) * _BYTES.get(kind, 4) for kind, sizes in shapes)


def read_operations(path: Path) -> list[Operation]:
    """The operations of a file as this machine's ONNX Runtime runs them; it runs once for that."""
    import onnxruntime

    from edgevit.export.onnx.contest import noise_like

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "nodes")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {
            argument.name: noise_like(argument.shape, argument.type.removeprefix("tensor(").removesuffix(")"))
            for argument in session.get_inputs()
        }
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    operators = OnnxOperators(path)
    return in_one_model([_read(operators, event) for event in events if event.get("cat") == "Node"])


def _read(operators: OnnxOperators, event: Mapping[str, Any]) -> Operation:
    name = event["name"].rpartition("_kernel_time")[0] or event["name"]
    ends = (
        [(kind, tuple(sizes)) for each in event["args"][f"{side}_type_shape"] for kind, sizes in each.items()]
        for side in ("input", "output")
    )
    return operators.operation(name, event["args"]["op_name"], *ends)
