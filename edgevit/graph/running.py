"""Run any part of a Program's graph on tensors, and look at, or replace, what passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.program import Program

# Called for a node's result in its place: gets the arguments, returns the result.
Override = Callable[..., Any]
Values = dict[str, Any]


# Images that run at once: enough to fill the cores, few in memory.
BATCH = 32


def batches(images: torch.Tensor, size: int = BATCH) -> Iterator[torch.Tensor]:
    """Slices of at most `size` images."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def spread(images: torch.Tensor, count: int) -> torch.Tensor:
    """At most so many of the images, from all over: folders are sorted, often by class.

    >>> spread(torch.arange(10), 4)
    tensor([0, 2, 5, 7])
    """
    return images[[len(images) * index // count for index in range(count)]] if count < len(images) else images


class Runner:
    """A Program's graph, node by node.

    Only what is asked for is computed, from whatever values are given, so that a block of the graph runs
    alone; each value is dropped when nothing needs it any more.
    """

    def __init__(self, program: Program) -> None:
        self.graph = program.graph
        self.nodes = {node.name: node for node in self.graph.nodes}
        exported = program.exported
        signature = exported.graph_signature
        stored = {**exported.constants, **exported.state_dict}
        targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.constants: Values = {name: stored[target].detach() for name, target in targets.items()}
        self.inputs = [str(name) for name in signature.user_inputs]
        self.image = self.inputs[0]
        self.results = [str(name) for name in signature.user_outputs]

    def run(
        self,
        given: Mapping[str, Any],
        wanted: Collection[str],
        *,
        overrides: Mapping[str, Override] | None = None,
    ) -> Values:
        """The wanted values.

        Args:
            given: values by node name; what leads to them is not computed. The image's is needed wherever
                something reads it, its batch size included.
            wanted: names of nodes.
            overrides: functions that stand for nodes' operators.
        """
        overrides = overrides or {}
        values = dict(given)
        order = self._needed(given, wanted)
        last_use = {source.name: node for node in order for source in node.all_input_nodes}
        for node in order:
            args, kwargs = map_arg((node.args, node.kwargs), lambda source: self._value(source, values))
            target: Any = overrides.get(node.name, node.target)
            values[node.name] = target(*args, **kwargs)
            for source in node.all_input_nodes:
                if last_use[source.name] is node and source.name not in wanted:
                    values.pop(source.name, None)
        return {name: self._value(self.nodes[name], values) for name in wanted}

    def observe(
        self, images: torch.Tensor, names: Collection[str], look: Callable[[str, torch.Tensor], None]
    ) -> None:
        """Run images to the end and show each named value as it is computed, without keeping it."""

        def watched(name: str) -> Override:
            target: Any = self.nodes[name].target

            def compute(*args: Any, **kwargs: Any) -> Any:
                value = target(*args, **kwargs)
                look(name, value)
                return value

            return compute

        for name in names:
            if self.nodes[name].op == "placeholder":
                look(name, images if name == self.image else self.constants[name])
        calls = {name: watched(name) for name in names if self.nodes[name].op == "call_function"}
        self.run({self.image: images}, self.results, overrides=calls)

    def _value(self, node: Node, values: Mapping[str, Any]) -> Any:
        if node.name in values:
            return values[node.name]
        return self.constants[node.name]

    def _needed(self, given: Mapping[str, Any], wanted: Collection[str]) -> list[Node]:
        """What has to be computed, in order."""
        needed: set[Node] = set()
        pending = [self.nodes[name] for name in wanted]
        while pending:
            node = pending.pop()
            if node in needed or node.name in given or node.op == "placeholder":
                continue
            needed.add(node)
            pending.extend(node.all_input_nodes)
        return [node for node in self.graph.nodes if node in needed]
