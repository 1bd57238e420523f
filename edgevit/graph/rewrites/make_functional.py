"""In-place operators become functional ones, where nothing else sees the memory they write."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor

# Declared to give a new tensor, but in evaluation they give back the one they were given.
_ALIASING_WITHOUT_SAYING = {
    torch.ops.aten.dropout.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
}


def make_functional(program: Program) -> Program:
    """Replace ``relu_(x)`` by ``relu(x)``, ``add_(x, y)`` by ``add(x, y)`` and so on.

    Given::

        y = conv2d(..); z = silu_(y); later readers of y or z

    Result::

        y = conv2d(..); z = silu(y); later readers of z

    Converters differ in what they make of an in-place operator, and no other rewrite has to think about
    memory once there are none. One stays where another name for its memory (a view of it, or what it is
    a view of, a weight, the input) is read after it: a slice assignment, for example.
    """
    editor = Editor(program)
    changed = sum(_make_functional(editor, node) for node in in_place_calls(editor.graph))
    return editor.finish("make_functional", changed=changed) if changed else program


def in_place_calls(graph: Graph) -> list[Node]:
    """The calls that write to a tensor they were given, in order."""
    return [node for node in graph.nodes if is_in_place(node)]


def is_in_place(node: Node) -> bool:
    """Whether the node writes to a tensor it was given."""
    schema = _schema(node)
    return bool(schema is not None and schema.is_mutable)


def _make_functional(editor: Editor, node: Node) -> bool:
    functional, written = _functional(node.target), node.args[0] if node.args else None
    if functional is None or node.kwargs or not isinstance(written, Node):
        return False
    position = {other: index for index, other in enumerate(editor.graph.nodes)}
    later = {other for other in written.users if position[other] > position[node]}
    if not _is_private(shared_memory(editor.graph, written), written, node, position):
        return False
    with editor.before(node):
        result = editor.call(functional, *node.args)
    value, expected = result.meta["val"], node.meta["val"]
    if value.dtype != expected.dtype or value.shape != expected.shape:
        editor.graph.erase_node(result)
        return False
    for user in later:
        user.replace_input_with(written, result)
    editor.replace(node, result)
    editor.graph.erase_node(node)
    return True


def _functional(target: Any) -> Any:
    """``aten::add.Tensor`` for ``aten::add_.Tensor``; None where there is none to trust.

    Only element-wise operators and dropout: for the rest (``copy_``, ``index_put_`` ..) the functional
    form is no easier for a converter.
    """
    namespace, name, overload = str(target).split(".")
    if namespace != "aten" or not name.endswith("_") or name == "copy_":
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    functional = getattr(packet, overload, None)
    if functional is None:
        return None
    return functional if torch.Tag.pointwise in functional.tags or name == "dropout_" else None


def _is_private(memory: set[Node], written: Node, node: Node, position: dict[Node, int]) -> bool:
    """Whether, from `node` on, only `written` and `node` itself lead to the memory."""
    if any(other.op != "call_function" for other in memory):
        return False
    return not any(
        position[user] > position[node]
        for other in memory
        if other is not written and position[other] < position[node]
        for user in other.users
    )


def shared_memory(graph: Graph, node: Node) -> set[Node]:
    """The nodes that may be, or hold, another name for the memory of `node`, itself included."""
    group = {node}
    forward = list(graph.nodes)
    size = 0
    while size != len(group):
        size = len(group)
        for other in forward:
            sources = _aliased_inputs(other)
            if other in group:
                group.update(sources)
            elif not group.isdisjoint(sources):
                group.add(other)
    return group


def written_to(graph: Graph) -> set[Node]:
    """The nodes whose memory some call writes to."""
    groups = (shared_memory(graph, node) for node in in_place_calls(graph))
    return {node for group in groups for node in group}


def _aliased_inputs(node: Node) -> list[Node]:
    """The inputs that a node's result may share memory with."""
    if node.op != "call_function":
        return []
    schema = _schema(node)
    if schema is None or node.target in _ALIASING_WITHOUT_SAYING:
        return node.all_input_nodes
    if not any(result.alias_info is not None for result in schema.returns):
        return []
    declared = zip(schema.arguments, node.args, strict=False)
    return [
        given for argument, given in declared if argument.alias_info is not None and isinstance(given, Node)
    ]


def _schema(node: Node) -> Any:
    """The operator's declaration, which says what it writes to and what its result may alias."""
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None
