"""Drop an expansion whose users broadcast by themselves.

Given

    %expanded = expand_as(%sum, %values)          # (2, 4, 8, 1) -> (2, 4, 8, 16)
    %product = mul(%relu, %expanded)              # (2, 4, 8, 16)

the result is

    %product = mul(%relu, %sum)

Elementwise operators broadcast, so the expansion only names a shape twice; converters without a rule
for it fail (TFLite's) or copy the tensor out (others).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.program import Program

_EXPANSIONS = frozenset({torch.ops.aten.expand.default, torch.ops.aten.expand_as.default})


def drop_broadcast_expand(program: Program) -> Program:
    """The program without expansions that elementwise operators make unneeded; itself if it has none.

    An expansion goes where every user is an elementwise operator whose result has the same shape and
    type without it. Values are equal to the bit.
    """
    if not any(_is_dropped(node) for node in program.graph.nodes):
        return program
    tensors = [*program.exported.state_dict.values(), *program.exported.constants.values()]
    exported = copy.deepcopy(program.exported, {id(tensor): tensor for tensor in tensors})
    for node in list(exported.graph.nodes):
        # Asked again for each: of two expanded operands, one has to stay to give the shape.
        if _is_dropped(node):
            node.replace_all_uses_with(node.args[0])
            exported.graph.erase_node(node)
    exported.graph.eliminate_dead_code()
    exported.graph_module.recompile()
    return Program(exported, program.card)


def _is_dropped(node: Node) -> bool:
    if node.target not in _EXPANSIONS or not node.users:
        return False
    return all(_broadcasts(user, node) for user in node.users)


def _broadcasts(user: Node, expansion: Node) -> bool:
    """Whether `user` gives the same without the expansion."""
    expected = user.meta.get("val")
    if not _is_elementwise(user) or not isinstance(expected, FakeTensor):
        return False
    source = expansion.all_input_nodes[0].meta["val"]

    def value_of(argument: Node) -> Any:
        return source if argument is expansion else argument.meta["val"]

    with expected.fake_mode:
        found = user.target(*map_arg(user.args, value_of), **map_arg(user.kwargs, value_of))  # type: ignore[operator]
    return bool(found.shape == expected.shape and found.dtype == expected.dtype)


def _is_elementwise(node: Node) -> bool:
    # An operator that writes into its first argument needs that argument's full shape.
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)  # noqa: SLF001 - the type has no public name
        and torch.Tag.pointwise in target.tags
        and not target.overloadpacket.__name__.endswith("_")
    )
