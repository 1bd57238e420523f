"""What is computed twice from the same is computed once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import written_to
from edgevit.graph.rewriting import Editor


def merge_equal_calls(program: Program) -> Program:
    """Let all that reads one of several equal calls read the first.

    Given::

        select(tokens, 1, 0) -> linear        select(tokens, 1, 0) -> linear

    Result::

        select(tokens, 1, 0) -> both

    Runtimes do so too; quantizers behind such calls would be fewer in a file than in the Program. Calls stay
    that chance takes part in, or a tensor that is written to in place.
    """
    editor = Editor(program)
    written = written_to(editor.graph)
    first: dict[Hashable, Node] = {}
    changed = 0
    for node in list(editor.graph.nodes):
        if not _is_pure(node) or not written.isdisjoint([node, *node.all_input_nodes]):
            continue
        # A reader of a call that is gone reads the first one's result by now, and may be equal itself.
        known = first.setdefault(_described(node), node)
        if known is not node:
            node.replace_all_uses_with(known)
            changed += 1
    return editor.finish("merge_equal_calls", changed=changed) if changed else program


def _is_pure(node: Node) -> bool:
    """Whether it is an operator that gives the same for the same, and changes nothing."""
    return (
        node.op == "call_function"
        and isinstance(node.target, OpOverload)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and not node.target._schema.is_mutable  # noqa: SLF001 - the schema has no public name
        and bool(node.users)
    )


def _described(node: Node) -> Hashable:
    return node.target, _hashable(node.args), _hashable(dict(node.kwargs))


def _hashable(value: Any) -> Hashable:
    """Equal for equal arguments: 1, 1.0 and True are not."""
    if isinstance(value, dict):
        return tuple((name, _hashable(value[name])) for name in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return type(value), value
