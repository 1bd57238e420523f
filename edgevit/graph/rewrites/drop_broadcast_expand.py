"""Drop an expansion whose users broadcast by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, same_shape

aten = torch.ops.aten

_EXPANSIONS = (aten.expand.default, aten.expand_as.default)


def drop_broadcast_expand(program: Program) -> Program:
    """Drop ``expand`` and ``expand_as`` where every reader is an elementwise operator that broadcasts.

    Given (MobileViTv2's separable attention, arXiv 2206.02680, section 3.1)::

        expanded = expand_as(sum, values)            # (2, 4, 8, 1) -> (2, 4, 8, 16)
        product = mul(relu, expanded)                # (2, 4, 8, 16)

    Result::

        product = mul(relu, sum)

    The expansion only names a shape twice; converters without a rule for it fail (TFLite's) or copy the
    tensor out (others). Values are equal to the bit. Of two expanded operands that both give the shape,
    one stays.
    """
    editor = Editor(program)
    changed = 0
    for node in calls(editor.graph, _EXPANSIONS):
        # Asked for each in turn: dropping one can make another the one that gives the shape.
        if _is_unneeded(editor, node):
            source = node.all_input_nodes[0]
            for user in list(node.users):
                user.replace_input_with(node, source)
            changed += 1
    return editor.finish("drop_broadcast_expand", changed=changed) if changed else program


def _is_unneeded(editor: Editor, node: Node) -> bool:
    return bool(node.users) and all(_broadcasts(editor, user, node) for user in node.users)


def _broadcasts(editor: Editor, user: Node, expansion: Node) -> bool:
    """Whether `user` gives the same without the expansion."""
    if not _is_elementwise(user):
        return False
    source = expansion.all_input_nodes[0]
    args, kwargs = map_arg((user.args, user.kwargs), lambda node: source if node is expansion else node)
    found, expected = editor.evaluate(user.target, args, kwargs), user.meta["val"]
    return same_shape(tuple(found.shape), tuple(expected.shape)) and found.dtype == expected.dtype


def _is_elementwise(node: Node) -> bool:
    # An operator that writes into its first argument needs that argument's full shape.
    target: Any = node.target
    return (
        isinstance(target, torch._ops.OpOverload)  # noqa: SLF001 - the type has no public name
        and torch.Tag.pointwise in target.tags
        and not target.overloadpacket.__name__.endswith("_")
    )
