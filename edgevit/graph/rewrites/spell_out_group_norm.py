"""Write a normalisation of one group as arithmetic on the tensor's own dimensions.

Given

    %y = group_norm(%x, 1, %weight, %bias, eps)       # %x is (batch, channels, height, width)

the result is

    %centred = sub(%x, mean(%x, [1, 2, 3], keepdim))
    %scaled = mul(%centred, rsqrt(add(mean(mul(%centred, %centred), [1, 2, 3], keepdim), eps)))
    %y = add(mul(%scaled, view(%weight, [1, -1, 1, 1])), view(%bias, [1, -1, 1, 1]))

Its decomposition in torch flattens the tensor and brings it back, and so ties it to one memory layout: a
converter that computes channels last then transposes before and after each. MobileViTv2 normalises so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from edgevit.graph.program import Program

aten = torch.ops.aten

# Of group_norm(input, groups, weight, bias, eps, cudnn_enabled).
_DEFAULTS = (None, 1, None, None, 1e-5, True)


def spell_out_group_norm(program: Program) -> Program:
    """The program with every one-group normalisation written out; the same program if it has none.

    Values are equal to float rounding.
    """
    if not any(_has_one_group(node) for node in program.graph.nodes):
        return program
    tensors = [*program.exported.state_dict.values(), *program.exported.constants.values()]
    exported = copy.deepcopy(program.exported, {id(tensor): tensor for tensor in tensors})
    for node in list(exported.graph.nodes):
        if _has_one_group(node):
            with exported.graph.inserting_before(node):
                node.replace_all_uses_with(_written_out(exported.graph, node))
            exported.graph.erase_node(node)
    exported.graph_module.recompile()
    return Program(exported, program.card)


def _has_one_group(node: Node) -> bool:
    return bool(node.target is aten.group_norm.default and node.args[1] == 1)


def _written_out(graph: Graph, node: Node) -> Node:
    arguments: list[Any] = [*node.args, *_DEFAULTS[len(node.args) :]]
    source, _, weight, bias, eps = arguments[:5]
    call = _caller(graph)
    rank = source.meta["val"].dim()
    inner = list(range(1, rank))
    per_channel = [1, -1, *[1] * (rank - 2)]
    centred = call(aten.sub.Tensor, source, call(aten.mean.dim, source, inner, True))
    variance = call(aten.mean.dim, call(aten.mul.Tensor, centred, centred), inner, True)
    result = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, call(aten.add.Tensor, variance, eps)))
    if weight is not None:
        result = call(aten.mul.Tensor, result, call(aten.view.default, weight, per_channel))
    if bias is not None:
        result = call(aten.add.Tensor, result, call(aten.view.default, bias, per_channel))
    return result


def _caller(graph: Graph) -> Callable[..., Node]:
    """A function that appends a call to the graph, with the value that shape propagation needs."""

    def call(operator: Any, *arguments: Any) -> Node:
        made = graph.call_function(operator, arguments)
        values = map_arg(arguments, lambda node: node.meta["val"])
        made.meta["val"] = operator(*values)
        return made

    return call
