"""Which part of a model an operator of an ONNX file belongs to, by the weights around it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# "stages.2.1" of "stages.2.1.attn.qkv.weight": up to the end of its first numbers.
_NUMBERED = re.compile(r"^(?:[^.\d][^.]*\.)+?\d+(?:\.\d+)*(?=\.)")


def block_names(artefact: Path, operators: Sequence[str]) -> list[str]:
    """The block of each operator that a runtime ran, in the order they ran.

    A runtime fuses operators and names what it made after one of them; one whose name is the runtime's own
    belongs to the block of the one before it.

    Args:
        artefact: the file; other than ONNX, no block is known.
        operators: names.
    """
    if artefact.suffix != ".onnx":
        return [""] * len(operators)
    import onnx

    known = _blocks_of(onnx.load(str(artefact), load_external_data=False).graph)
    found, block = [], ""
    for name in operators:
        block = next((known[each] for each in originals(name) if each in known), block)
        found.append(block)
    return found


def originals(name: str) -> list[str]:
    """The names that a node may have had in the file: `node_linear/MatMulAddFusion`, `conv2d_nchwc`."""
    return [name, name.split("/", maxsplit=1)[0], name.removesuffix("_nchwc")]


def _blocks_of(graph: Any) -> dict[str, str]:
    """Blocks of the nodes of a file, by their names and by those of their results.

    An operator that reads no named weights belongs to the block of what it reads - or, where it reads a
    matrix that lost its name when it was transposed, of the bias that is added to its result.
    """
    constants = {tensor.name: tensor.dims for tensor in graph.initializer}
    named = {node.name: _named_block(node, constants) for node in graph.node}
    readers = {value: node.name for node in graph.node for value in node.input}
    known: dict[str, str] = {}
    for node in graph.node:
        block = named[node.name]
        if block is None and any(len(constants.get(value, ())) > 1 for value in node.input):
            block = named.get(readers.get(node.output[0], ""))
        if block is None:
            block = next((known[value] for value in node.input if value in known), "")
        known.update(dict.fromkeys((node.name, *node.output), block))
    return known


def _named_block(node: Any, constants: Mapping[str, Sequence[int]]) -> str | None:
    """Of the first weights with a name of the model's; the others are constants that the export made."""
    return next((block_of(value) for value in node.input if value in constants and "." in value), None)


def block_of(weight: str) -> str:
    """The block that a weight belongs to.

    >>> block_of("stages.2.1.attn.qkv.weight"), block_of("stem.conv.weight"), block_of("head.bias")
    ('stages.2.1', 'stem', 'head')
    """
    numbered = _NUMBERED.match(weight)
    return numbered[0] if numbered else weight.partition(".")[0]
