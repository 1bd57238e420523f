"""What a quantized file takes and gives: floats for apps, integers for devices that know no others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.export.tflite.kernels import grid_in
from edgevit.export.tflite.model import add_float_like, conversion
from edgevit.graph.card import Card


def float_ends(model: Any, card: Card, integers: Collection[str]) -> None:
    """Let a file take and give float32, in place, with the first and last quantizer inside it.

    The converter makes whatever is quantized at once an integer input, and likewise at the end.

    Args:
        model: the ``ModelT``.
        card: names its ends.
        integers: the ends that are to stay integers.

    Raises:
        EdgevitError: naming an end that is to stay integers and is none.
    """
    graph = model.subgraphs[0]
    # Of both operators, the versions that take int16, the wider of the two types.
    for place, (tensor, name) in enumerate(zip(graph.inputs, card.inputs, strict=True)):
        if _is_integer(graph, tensor, name, integers):
            made = add_float_like(graph, int(tensor))
            quantize = conversion(model, "QUANTIZE", made, int(tensor), version=2)
            graph.operators = [quantize, *graph.operators]
            _rename_end(model, "inputs", place, made)
    for place, (tensor, name) in enumerate(zip(graph.outputs, card.outputs, strict=True)):
        if _is_integer(graph, tensor, name, integers):
            made = add_float_like(graph, int(tensor))
            dequantize = conversion(model, "DEQUANTIZE", int(tensor), made, version=3)
            graph.operators = [*graph.operators, dequantize]
            _rename_end(model, "outputs", place, made)


def _is_integer(graph: Any, tensor: int, name: str, integers: Collection[str]) -> bool:
    """Whether an end is integers that are to become floats."""
    is_integer = grid_in(graph.tensors[tensor]) is not None
    if name in integers and not is_integer:
        raise EdgevitError(f"{name}: the converter made floats of the integers between two stages")
    return is_integer and name not in integers


def check_integer_ends(model: Any, card: Card) -> None:
    """Refuse a file that takes or gives floats.

    Args:
        model: the ``ModelT``.
        card: names its ends.

    Raises:
        EdgevitError: naming the end without a quantizer.
    """
    graph = model.subgraphs[0]
    names = ("the image", *card.outputs)
    for tensor, name in zip((*graph.inputs, *graph.outputs), names, strict=True):
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
