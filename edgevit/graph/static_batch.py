"""A graph of any batch made one of exactly so many images, without tracing the model again."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from edgevit.graph.graphs import copied

# What the tracer notes about symbolic sizes, and nothing else.
_ABOUT_SIZES = {
    torch.ops.aten._assert_scalar.default,  # noqa: SLF001 - its public name
    torch.ops.aten.sym_constrain_range_for_size.default,
}


def with_static_batch(exported: ExportedProgram, batch: int) -> ExportedProgram:
    """The exported graph for a batch of `batch`: sizes are numbers, and arithmetic on them is done.

    Every node is evaluated on fake tensors of the wanted size, in order; what comes out as a number
    (``sym_size``, products and quotients of sizes) is written into its readers. ``torch.export`` of the
    module would trace it anew, in several times the time.

    Args:
        exported: a graph of one input whose first dimension is the only dynamic one.
        batch: images.
    """
    graph, mode = copied(exported.graph), FakeTensorMode(static_shapes=True)
    graph.owning_module = exported.graph_module
    tensors = {**exported.constants, **exported.state_dict}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    numbers: dict[Node, Any] = {}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            spec = specs[node.name]
            is_input = spec.kind is InputKind.USER_INPUT
            value = _image(node, batch) if is_input else tensors[str(spec.target)]
            node.meta["val"] = mode.from_tensor(value)
        elif node.target in _ABOUT_SIZES:
            graph.erase_node(node)
        else:
            _settle(node, numbers, mode)
    _erase(graph, numbers)
    return ExportedProgram(
        root=exported.graph_module,
        graph=graph,
        graph_signature=exported.graph_signature,
        state_dict=dict(exported.state_dict),
        range_constraints={},
        module_call_graph=list(exported.module_call_graph),
        example_inputs=((_image(_input(graph, specs), batch),), {}),
        constants=dict(exported.constants),
        verifiers=exported.verifiers,
    )


def _input(graph: Graph, specs: dict[str, Any]) -> Node:
    placeholders: list[Node] = graph.find_nodes(op="placeholder")
    return next(node for node in placeholders if specs[node.name].kind is InputKind.USER_INPUT)


def _image(node: Node, batch: int) -> torch.Tensor:
    shape = tuple(node.meta["val"].shape)[1:]
    return torch.zeros(batch, *(int(size) for size in shape))


def _settle(node: Node, numbers: dict[Node, Any], mode: FakeTensorMode) -> None:
    """Give a node numbers for the symbolic sizes it reads, and the value it then has."""

    def known(argument: Node) -> Any:
        return numbers.get(argument, argument)

    node.args, node.kwargs = map_arg(node.args, known), map_arg(node.kwargs, known)
    if node.op == "output":
        # A graph that was loaded has the results' old values here as well.
        node.meta.pop("val", None)
        return
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    with mode, torch.no_grad():
        value = node.target(*args, **kwargs)  # type: ignore[operator]
    if isinstance(value, int | float | bool):
        numbers[node] = value
    node.meta["val"] = value
    node.meta.pop("unbacked_bindings", None)


def _erase(graph: Graph, numbers: dict[Node, Any]) -> None:
    for node in reversed(list(numbers)):
        graph.erase_node(node)
