"""One layer that gives query, key and value at once becomes three, whose widths are their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_aggregate

from edgevit.graph.axes import LAYERS, Dimensions, stored_tensors
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, is_call
from edgevit.graph.slicing import resize, sliced

aten = torch.ops.aten


@dataclass(frozen=True)
class _Fused:
    """What a layer gives at once, and where it comes apart.

    Attributes:
        unbind: where it does.
        number: the dimension that numbers the parts.
        path: the layer, and what only moves its result, up to `unbind`.
    """

    unbind: Node
    number: Dim
    path: tuple[Node, ...]


def split_projections(program: Program) -> Program:
    """Give every part of a fused projection a layer of its own.

    Given::

        linear(x, W) (b, n, 3 h d) -> reshape (b, n, 3, h, d) -> permute (3, b, h, n, d) -> unbind

    Result::

        linear(x, W[:h d]) -> reshape (b, n, 1, h, d) -> permute (1, b, h, n, d) -> select, and so on

    Each part is the slice of the whole at its number. While one layer gives them all, they are of one width;
    split, a query may be narrower than a value. Three small products cost more than a large one, so nothing
    does this for export alone.
    """
    dimensions = Dimensions(program)
    found = [
        fused
        for unbind in calls(program.graph, [aten.unbind.int])
        if (fused := _fused(unbind, dimensions)) is not None
    ]
    if not found:
        return program
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    stored = {node.name: value for node, _, value in stored_tensors(program)}
    for fused in found:
        for user in list(nodes[fused.unbind.name].users):
            part = _part(editor, nodes, fused, dimensions, stored, index=int(user.args[1]))
            editor.replace(user, part)
    return editor.finish("split_projections", changed=len(found))


def _fused(unbind: Node, dimensions: Dimensions) -> _Fused | None:
    source, place = unbind.args[0], unbind.args[1] if len(unbind.args) > 1 else 0
    number = dimensions.of[source][place].root  # type: ignore[index]
    carriers = [
        node
        for node, dims in dimensions.of.items()
        if node.op == "call_function"
        and node is not unbind
        and any(leaf is number for dim in dims if isinstance(dim, Dim) for leaf in dim.leaves())
    ]
    if number.form != "whole" or not carriers or not is_call(carriers[0], LAYERS):
        return None
    chain = all(
        list(node.users) == [after] for node, after in zip(carriers, [*carriers[1:], unbind], strict=True)
    )
    return _Fused(unbind, number, tuple(carriers)) if chain else None


def _part(
    editor: Editor,
    nodes: dict[str, Node],
    fused: _Fused,
    dimensions: Dimensions,
    stored: dict[str, torch.Tensor],
    *,
    index: int,
) -> Node:
    """The layer of one part, with all that moved it."""
    choices = {fused.number: torch.tensor([index])}
    made: dict[Node, Node] = {}

    def argument(original: Any) -> Any:
        if not isinstance(original, Node) or original in made:
            return made.get(original, original)
        given = nodes[original.name]
        if original.name not in stored:
            return given
        small = sliced(stored[original.name], dimensions.of[original], choices)
        parameter = editor.is_parameter(given)
        return editor.add_tensor(f"{editor.path(given)}_{index}", small, parameter=parameter)

    with editor.before(nodes[fused.unbind.name]):
        for node in fused.path:
            args, kwargs = map_aggregate((node.args, node.kwargs), argument)
            made[node] = editor.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
            resize(node, made[node], dimensions, choices)
            editor.evaluate_again(made[node])
        place = fused.unbind.args[1] if len(fused.unbind.args) > 1 else 0
        return editor.call(aten.select.int, made[fused.path[-1]], place, 0)
