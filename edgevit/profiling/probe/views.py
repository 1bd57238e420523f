"""An ONNX file of nothing but reshapes, written without the onnx package, which a device need not have.

What a reshape takes without a profiler is what is left of it when the profiler's cost is gone.
"""

from __future__ import annotations

# Fields of the messages in onnx.proto.
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
_NODES, _GRAPH_NAME, _INITIALIZERS, _INPUTS, _OUTPUTS = 1, 2, 5, 11, 12
_NODE_INPUTS, _NODE_OUTPUTS, _OP_TYPE = 1, 2, 4
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT, _INT64 = 1, 7


def chain_of_views(length: int) -> bytes:
    """A model that reshapes one value so many times, to one dimension and to two in turn."""
    names = ["x", *(f"v{number}" for number in range(1, length)), "y"]
    nodes = b"".join(
        _bytes(_NODES, _node(names[number], f"shape{number % 2}", names[number + 1]))
        for number in range(length)
    )
    shapes = _bytes(_INITIALIZERS, _shape("shape0", [1, 1])) + _bytes(_INITIALIZERS, _shape("shape1", [1]))
    ends = _bytes(_INPUTS, _value("x", [1])) + _bytes(
        _OUTPUTS, _value("y", [1] if length % 2 == 0 else [1, 1])
    )
    graph = nodes + _text(_GRAPH_NAME, "views") + shapes + ends
    # The default operators, of version 13.
    return _integer(_IR_VERSION, 8) + _bytes(_GRAPH, graph) + _bytes(_OPSETS, _integer(2, 13))


def _node(value: str, shape: str, result: str) -> bytes:
    return (
        _text(_NODE_INPUTS, value)
        + _text(_NODE_INPUTS, shape)
        + _text(_NODE_OUTPUTS, result)
        + _text(_OP_TYPE, "Reshape")
    )


def _shape(name: str, sizes: list[int]) -> bytes:
    """A constant of int64."""
    raw = b"".join(size.to_bytes(8, "little") for size in sizes)
    return (
        _integer(_DIMS, len(sizes))
        + _integer(_DATA_TYPE, _INT64)
        + _text(_TENSOR_NAME, name)
        + _bytes(_RAW_DATA, raw)
    )


def _value(name: str, sizes: list[int]) -> bytes:
    """The name, type and shape of an input or output."""
    dims = b"".join(_bytes(1, _integer(1, size)) for size in sizes)
    tensor = _integer(1, _FLOAT) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())
