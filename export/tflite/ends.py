"""What goes into a quantized file and what comes out of it: floats for apps, integers for devices without any."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgevit.errors import EdgevitError
from edgevit.export.tflite.kernels import grid_in
from edgevit.export.tflite.model import add_tensor, conversion, shape_of


def float_ends(model: Any) -> None:
    """Let a file take and give float32, in place, with the first and last quantizer inside it.

    The converter makes whatever is quantized at once an integer input, and likewise at the end.
    """
    graph = model.subgraphs[0]
    # Of both operators, the versions that take int16, the wider of the two types.
    for place, tensor in enumerate(graph.inputs):
        if grid_in(graph.tensors[tensor]) is not None:
            made = _float(graph, tensor)
            quantize = conversion(model, "QUANTIZE", made, int(tensor), version=2)
            graph.operators = [quantize, *graph.operators]
            _rename_end(model, "inputs", place, made)
    for place, tensor in enumerate(graph.outputs):
        if grid_in(graph.tensors[tensor]) is not None:
            made = _float(graph, tensor)
            dequantize = conversion(model, "DEQUANTIZE", int(tensor), made, version=3)
            graph.operators = [*graph.operators, dequantize]
            _rename_end(model, "outputs", place, made)


def check_integer_ends(model: Any, outputs: tuple[str, ...]) -> None:
    """Refuse a file that takes or gives floats.

    Args:
        model: the ``ModelT``.
        outputs: names of its outputs.

    Raises:
        EdgevitError: naming the end without a quantizer.
    """
    graph = model.subgraphs[0]
    for tensor, name in zip((*graph.inputs, *graph.outputs), ("the image", *outputs), strict=True):
        if grid_in(graph.tensors[tensor]) is None:
            raise EdgevitError(
                f"--integer-io: {name} has no quantizer in the program; "
                "quantize the first and the last operation too, or leave the option out"
            )


def _float(graph: Any, tensor: int) -> int:
    """A float32 tensor like an integer one."""
    like = graph.tensors[tensor]
    return add_tensor(graph, shape_of(like), schema.TensorType.FLOAT32, f"{like.name.decode()};float32")


def _rename_end(model: Any, side: str, place: int, tensor: int) -> None:
    """Make a tensor an input or output in the place of another, in the graph and in its signature."""
    graph = model.subgraphs[0]
    ends = [int(index) for index in getattr(graph, side)]
    for entry in getattr(model.signatureDefs[0], side):
        if entry.tensorIndex == ends[place]:
            entry.tensorIndex = tensor
    ends[place] = tensor
    setattr(graph, side, ends)
