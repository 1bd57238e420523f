"""What a quantized file takes and gives: floats for apps, integers for devices that know no others."""

from __future__ import annotations

from typing import Any

from edgevit.errors import EdgevitError
from edgevit.export.tflite.kernels import grid_in
from edgevit.export.tflite.model import add_float_like, conversion


def float_ends(model: Any) -> None:
    """Let a file take and give float32, in place, with the first and last quantizer inside it.

    The converter makes whatever is quantized at once an integer input, and likewise at the end.
    """
    graph = model.subgraphs[0]
    # Of both operators, the versions that take int16, the wider of the two types.
    for place, tensor in enumerate(graph.inputs):
        if grid_in(graph.tensors[tensor]) is not None:
            made = add_float_like(graph, int(tensor))
            quantize = conversion(model, "QUANTIZE", made, int(tensor), version=2)
            graph.operators = [quantize, *graph.operators]
            _rename_end(model, "inputs", place, made)
    for place, tensor in enumerate(graph.outputs):
        if grid_in(graph.tensors[tensor]) is not None:
            made = add_float_like(graph, int(tensor))
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


def _rename_end(model: Any, side: str, place: int, tensor: int) -> None:
    """Make a tensor an input or output in the place of another, in the graph and in its signature."""
    graph = model.subgraphs[0]
    ends = [int(index) for index in getattr(graph, side)]
    for entry in getattr(model.signatureDefs[0], side):
        if entry.tensorIndex == ends[place]:
            entry.tensorIndex = tensor
    ends[place] = tensor
    setattr(graph, side, ends)
