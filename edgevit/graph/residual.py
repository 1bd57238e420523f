"""Residual branches: which there are, and a Program without one of them.

Where a network adds to a value what it computes from it, it goes on without the branch: the sum becomes the
value alone, of the same shape, and whatever the branch alone read is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.axes import LAYERS, stored_tensors
from edgevit.graph.program import Program
from edgevit.graph.rewriting import (
    VIEWS,
    Editor,
    ancestors,
    calls,
    is_call,
    same_shape,
    shape_of,
    shared_path,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class ResidualBlock:
    """A branch that is added to what it was computed from.

    Attributes:
        name: the module that the branch's layers have in common, as in ``blocks.0.mlp``, with a number where
            several have it; the branch's first node where the graph does not say.
        sum: the node that adds.
        skip: the node that the branch's result is added to; the branch is computed from it, or from
            another view of the same value.
        nodes: all that is computed for the sum alone, in order; the last is the branch's result.
        parameters: how many numbers the branch alone reads, buffers among them: what is saved without it.
    """

    name: str
    sum: str
    skip: str
    nodes: tuple[str, ...]
    parameters: int


def residual_blocks(program: Program) -> tuple[ResidualBlock, ...]:
    """The residual branches of a program, in the order of their sums.

    A branch that holds others is found beside them. What is read outside of a branch keeps it from being one:
    it could not go.

    Args:
        program: best as `edgevit.graph.rewrites.prepare_for_export` gives it, in which no sum is in place.
    """
    stored = {node: value for node, _, value in stored_tensors(program)}
    found, names = [], Counter[str]()
    for node in calls(program.graph, [aten.add.Tensor]):
        block = _block(node, stored)
        if block is None:
            continue
        names[block.name] += 1
        number = names[block.name]
        found.append(replace(block, name=block.name + (f"#{number}" if number > 1 else "")))
    return tuple(found)


def drop_block(program: Program, block: ResidualBlock) -> Program:
    """The program without a residual branch: what it was added to takes the place of the sum.

    Args:
        program: as it was given to `residual_blocks`.
        block: one of those found.

    Raises:
        EdgevitError: when the block is another program's.
    """
    if block not in residual_blocks(program):
        raise EdgevitError(
            f"{block.name}: is no residual block of {program.card.name}; "
            "take those that residual_blocks gives of it"
        )
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    editor.replace(nodes[block.sum], nodes[block.skip])
    return editor.finish("drop_block", parameters=block.parameters)


def _block(node: Node, stored: dict[Node, torch.Tensor]) -> ResidualBlock | None:
    """The block that an addition ends; None where it ends none."""
    if not _adds_alike(node):
        return None
    for skip, branch in (node.all_input_nodes, reversed(node.all_input_nodes)):
        alone, value = _used_for(node, skip), _forms(skip)
        read = {source for inner in alone for source in inner.all_input_nodes} - set(alone)
        # Computed from the skip, and by no way that something else reads as well.
        if branch in alone and read & value and not ancestors(read - value) & value:
            computed = [inner for inner in alone if inner.op == "call_function"]
            return ResidualBlock(
                name=_module(computed) or computed[0].name,
                sum=node.name,
                skip=skip.name,
                nodes=tuple(inner.name for inner in computed),
                parameters=_stored_alone(alone, stored),
            )
    return None


def _adds_alike(node: Node) -> bool:
    """Whether an addition is of two floating-point tensors of its own shape, neither multiplied."""
    operands, value = node.all_input_nodes, node.meta["val"]
    return (
        len(operands) == 2
        and not node.kwargs
        and bool(value.is_floating_point())
        and all(operand.meta["val"].dtype == value.dtype for operand in operands)
        and all(same_shape(shape_of(operand), shape_of(node)) for operand in operands)
    )


def _used_for(node: Node, skip: Node) -> list[Node]:
    """What nothing but a sum needs, the sum and the skip left out, in order."""
    found = {node}
    for inner in reversed(node.graph.nodes):
        if inner is not skip and inner.users and found.issuperset(inner.users):
            found.add(inner)
    return [inner for inner in node.graph.nodes if inner in found and inner is not node]


def _forms(skip: Node) -> set[Node]:
    """A value and what it is a view of: a branch may read another view of the same."""
    found = {skip}
    while is_call(skip, VIEWS):
        skip = skip.all_input_nodes[0]
        found.add(skip)
    return found


def _module(nodes: Sequence[Node]) -> str:
    """The module that layers have in common: a norm before an attention does not belong to its module."""
    return shared_path([node for node in nodes if is_call(node, LAYERS)] or nodes)


def _stored_alone(nodes: Sequence[Node], stored: dict[Node, torch.Tensor]) -> int:
    """How many numbers are stored for nodes alone; a tensor may have several names."""
    alone = set(nodes)
    others = {value.data_ptr() for node, value in stored.items() if node not in alone}
    mine = {value.data_ptr(): value.numel() for node, value in stored.items() if node in alone}
    return sum(count for place, count in mine.items() if place not in others)
