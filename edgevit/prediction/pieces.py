"""A TFLite file cut into pieces: each operator that multiplies by itself, and what lies between them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.export.tflite.model import operator_name, parse, prune, serialise
from edgevit.prediction.litert_operations import PRODUCTS


@dataclass(frozen=True)
class Piece:
    """Neighbouring operators as a file of their own.

    Attributes:
        first: the place of the first operator.
        last: of the last.
        content: the file.
        entering: bytes that it is given.
    """

    first: int
    last: int
    content: bytes
    entering: int


def cut(path: Path) -> list[Piece]:
    """The pieces of a file, in its order; operators that read nothing but constants are in none."""
    model = parse(path.read_bytes())
    found = [_piece(model, first, last) for first, last in _spans(model)]
    return [piece for piece in found if piece is not None]


def _spans(model: Any) -> list[tuple[int, int]]:
    """First and last operators of the pieces."""
    spans: list[tuple[int, int]] = []
    joins = False
    for place, operator in enumerate(model.subgraphs[0].operators):
        alone = operator_name(model, operator) in PRODUCTS
        if joins and not alone:
            spans[-1] = (spans[-1][0], place)
        else:
            spans.append((place, place))
        joins = not alone
    return spans


def _piece(model: Any, first: int, last: int) -> Piece | None:
    graph = model.subgraphs[0]
    inside = graph.operators[first : last + 1]
    made = {int(tensor) for operator in inside for tensor in operator.outputs}
    read = {int(tensor) for operator in inside for tensor in operator.inputs} - {-1}
    behind = {int(tensor) for operator in graph.operators[last + 1 :] for tensor in operator.inputs}
    given = sorted(tensor for tensor in read - made if not _is_constant(model, tensor))
    if not given:
        return None
    # A copy of no more than what pruning changes: the weights are shared.
    part, body = copy.copy(model), copy.copy(graph)
    part.signatureDefs, part.metadata, part.metadataBuffer = [], [], []
    part.subgraphs, part.buffers, part.operatorCodes = [body], list(model.buffers), list(model.operatorCodes)
    body.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    body.operators = [copy.copy(operator) for operator in inside]
    body.inputs = given
    body.outputs = sorted(made & (behind | {int(tensor) for tensor in graph.outputs}) or made - read)
    entering = sum(_bytes(graph.tensors[tensor]) for tensor in given)
    prune(part)
    return Piece(first, last, serialise(part), entering)


def _is_constant(model: Any, tensor: int) -> bool:
    data = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return data is not None and len(data) > 0


def _bytes(tensor: Any) -> int:
    import math

    from ai_edge_litert import schema_py_generated as schema

    from edgevit.export.tflite.model import shape_of

    size = 1 if tensor.type in (schema.TensorType.INT8, schema.TensorType.UINT8) else 4
    return size * math.prod(shape_of(tensor))
