"""Float16 weights and arithmetic between a float32 input and float32 outputs.

What an operator may take as float16 is read from ONNX's own schema. What it may not (the scales of a
Resize, a Range), and whatever reads a constant that float16 cannot hold, stays float32 behind casts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

_LARGEST = float(np.finfo(np.float16).max)
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def halve(model: ir.Model) -> None:
    """Make a float32 model's weights and arithmetic float16, in place.

    Weights below float16's smallest value become 0 or that value, whichever is nearer. A constant with a
    finite value above its largest, 65504, stays float32, and so do the nodes that read it.

    Args:
        model: with the type of every value known, and no control flow.
    """
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    opset = model.opset_imports[""]
    halved = {node for node in model.graph if _can_be_half(node, opset)}
    wanted = {
        (node, place): _HALF if node in halved and _takes_half(node, place, opset) else _FLOAT
        for node in model.graph
        for place, value in enumerate(node.inputs)
        if value is not None and value.dtype == _FLOAT
    }
    for value in model.graph.initializers.values():
        uses = [(use.node, use.idx) for use in value.uses()]
        if value.dtype == _FLOAT and any(wanted[use] == _HALF for use in uses):
            _set_half(value)
    for node in halved:
        _halve_results(node)
    _Casts(model.graph).insert(wanted)


def _can_be_half(node: ir.Node, opset: int) -> bool:
    """Whether it takes a float tensor that may be float16, and all its constants fit."""
    floats = [place for place, value in enumerate(node.inputs) if value is not None and value.dtype == _FLOAT]
    if node.op_type == "Cast":
        return True
    return any(_takes_half(node, place, opset) for place in floats) and all(
        _fits(node.inputs[place]) for place in floats
    )


def _takes_half(node: ir.Node, place: int, opset: int) -> bool:
    import onnx

    if node.domain != "":
        return True  # ONNX Runtime's own operators, which all know float16
    schema = onnx.defs.get_schema(node.op_type, opset)
    # The last declared input of Concat and its like stands for all that follow.
    return "tensor(float16)" in schema.inputs[min(place, len(schema.inputs) - 1)].types


def _fits(value: ir.Value | None) -> bool:
    if value is None or value.const_value is None:
        return True
    values = value.const_value.numpy()
    return bool(
        np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0) <= _LARGEST
    )


def _set_half(value: ir.Value) -> None:
    if value.const_value is None:
        raise AssertionError(f"{value.name} is no constant")
    value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    value.dtype = _HALF


def _halve_results(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
    for value in node.outputs:
        if value.dtype == _FLOAT:
            value.dtype = _HALF


class _Casts:
    """The casts of a graph, each value cast to a type once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def insert(self, wanted: dict[tuple[ir.Node, int], Any]) -> None:
        """Give every use the type it wants, and the outputs the float32 they had."""
        for (node, place), dtype in wanted.items():
            value = node.inputs[place]
            if value is not None and value.dtype != dtype:
                node.replace_input_with(place, self._cast(value, dtype))
        for place, value in enumerate(self.graph.outputs):
            if value.dtype == _HALF:
                name, value.name = value.name, f"{value.name}_half"
                self.graph.outputs[place] = self._cast(value, _FLOAT)
                self.graph.outputs[place].name = name

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if (value, dtype) not in self.made:
            kind = "half" if dtype == _HALF else "float"
            result = ir.Value(name=f"{value.name}_{kind}", shape=value.shape, type=ir.TensorType(dtype))
            node = ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=f"{result.name}_cast")
            producer = value.producer()
            if producer is None:
                self.graph.insert_before(self.graph[0], node)
            else:
                self.graph.insert_after(producer, node)
            self.made[value, dtype] = result
        return self.made[value, dtype]
