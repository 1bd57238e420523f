"""A dynamic batch made a number, by working the graph's shapes out again instead of tracing it anew.

Nodes that compute sizes are replaced by the numbers they give, and every other node keeps its place and
gets the shape that it has for that batch. A graph of 400 nodes takes a fraction of a second this way,
where `torch.export` of the graph as a module takes seconds.
"""

from __future__ import annotations

import copy

import torch
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_arg

# Where the functions that compute with sizes come from.
_ARITHMETIC = ("_operator", "math", "torch")
_ABOUT_DTYPE = torch.ops.aten._assert_tensor_metadata.default  # noqa: SLF001 - its public name


def with_fixed_batch(exported: ExportedProgram, batch: int) -> ExportedProgram | None:
    """The same graph for exactly `batch` images.

    Args:
        exported: a graph of inputs whose first dimension is dynamic; it is left as it is.
        batch: the number that it becomes.

    Returns:
        None where the graph calls more than operators (control flow, conditions on values): such a graph
        has to be traced.
    """
    if not all(_is_plain(node) for node in exported.graph.nodes):
        return None
    graph, mode = copied(exported.graph), FakeTensorMode(shape_env=ShapeEnv())
    graph.owning_module = exported.graph_module
    examples = _set_placeholders(exported, graph, mode, batch)
    for node in list(graph.nodes):
        if node.op == "call_function":
            _work_out(node, mode)
    results = graph.output_node()
    if "val" in results.meta:  # as after loading
        results.meta["val"] = map_arg(results.args[0], lambda result: result.meta["val"])
    graph.lint()
    return ExportedProgram(
        root=exported.graph_module,
        graph=graph,
        graph_signature=copy.deepcopy(exported.graph_signature),
        state_dict=dict(exported.state_dict),
        range_constraints={},
        module_call_graph=list(exported.module_call_graph),
        example_inputs=(examples, {}),
        constants=dict(exported.constants),
        verifiers=exported.verifiers,
    )


def copied(graph: Graph) -> Graph:
    """A copy whose nodes have the names of the original's."""
    copied: Graph = copy.deepcopy(graph)
    for original, node in zip(graph.nodes, copied.nodes, strict=True):
        # Copying renames what is called like a Python builtin ("input"); the signature goes by names.
        node.name = original.name
    return copied


def _is_plain(node: Node) -> bool:
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    if isinstance(node.target, OpOverload):
        # An assertion is about a size that was not known, or about values; this one is about neither.
        return node.target is _ABOUT_DTYPE or "assert" not in str(node.target)
    return getattr(node.target, "__module__", "") in _ARITHMETIC


def _set_placeholders(
    exported: ExportedProgram, graph: Graph, mode: FakeTensorMode, batch: int
) -> tuple[torch.Tensor, ...]:
    """Give every placeholder its fake tensor; returns an example of the inputs."""
    examples = []
    paths = {spec.arg.name: spec.target for spec in exported.graph_signature.input_specs}
    for node in graph.find_nodes(op="placeholder"):
        path = paths[node.name]
        if path is None:
            old = node.meta["val"]
            example = torch.zeros((batch, *old.shape[1:]), dtype=old.dtype)
            node.meta["val"] = mode.from_tensor(example, static_shapes=True)
            examples.append(example)
        else:
            stored = exported.state_dict.get(path, exported.constants.get(path))
            node.meta["val"] = mode.from_tensor(stored, static_shapes=True)
    return tuple(examples)


def _work_out(node: Node, mode: FakeTensorMode) -> None:
    """Evaluate a node on fake tensors; what is a size becomes a number wherever it was read."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    with mode, torch.no_grad():
        value = node.target(*args, **kwargs)  # type: ignore[operator]
    if not isinstance(value, int | float):
        node.meta["val"] = value
        return
    for user in list(node.users):
        user.args = map_arg(user.args, lambda argument: value if argument is node else argument)
        user.kwargs = map_arg(user.kwargs, lambda argument: value if argument is node else argument)
    node.graph.erase_node(node)
