"""The stages that cuts give: each a Program, which together compute what the whole does.

A stage takes, by name, what it reads of all that was made before it, and gives what it makes and a later
stage reads. What merely passes it is neither: whoever carries tensors from device to device has that
already, and hands it on. So a tensor has one name, and is made once.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence

import torch
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.card import CUT, Step
from edgevit.graph.crossing import DEQUANTIZE, QUANTIZE, Grid, Values, grid_of
from edgevit.graph.cutting import Cut, functional
from edgevit.graph.program import Array, Program
from edgevit.graph.rewriting import Editor, ancestors, calls, is_call

aten = torch.ops.aten


def stages(program: Program, cuts: Sequence[Cut]) -> tuple[Program, ...]:
    """A program in stages, one more than cuts.

    The first takes the image and the last gives the logits. Between them go the tensors of the cuts, by the
    names that they have there: dense, with the batch in front, which is dynamic where it was. The card of
    each stage ends in a step that says which of how many it is; the last keeps the labels.

    Args:
        program: as it was given to `find_cuts`.
        cuts: any of those found, in order.

    Returns:
        The program itself where there are no cuts.

    Raises:
        EdgevitError: when a cut is another program's, or does not lie behind the one before it.
    """
    if not cuts:
        return (program,)
    whole = functional(program)
    values = Values(whole)
    crossing = [set[Node](), *(_crossing(values, cut, program.card.name) for cut in cuts)]
    found = []
    for place, taken in enumerate(crossing):
        stage = _Stage(whole, values, taken, f"stage {place + 1} of {len(crossing)}")
        last = place == len(cuts)
        stage.give(stage.results() if last else stage.made(crossing[place + 1] - taken))
        found.append(
            stage.finish(Step(name=CUT, options={"stage": place + 1, "of": len(crossing)}), last=last)
        )
    return tuple(found)


def run_stages(stages: Sequence[Program], images: Array) -> list[Array]:
    """Run stages one after the other, as devices do that hand on what was made.

    Args:
        stages: as `stages` gives them.
        images: prepared images, any number.

    Returns:
        The outputs of the last.
    """
    made = {stages[0].card.inputs[0]: images}
    for stage in stages:
        results = stage.run(*(made[name] for name in stage.card.inputs))
        made |= zip(stage.card.outputs, results, strict=True)
    return results


def _crossing(values: Values, cut: Cut, name: str) -> set[Node]:
    """The nodes whose results cross a cut."""
    nodes = {tensor.name: node for node, tensor in values.tensors.items()}
    for tensor in cut.tensors:
        if tensor.name not in nodes:
            raise EdgevitError(
                f"cuts: {tensor.name} is no tensor that {name} can be cut at; "
                "take cuts that find_cuts gives of it"
            )
    return {nodes[tensor.name] for tensor in cut.tensors}


class _Stage:
    """A copy of a program's graph that takes what crosses a cut."""

    def __init__(self, program: Program, values: Values, taken: Collection[Node], title: str) -> None:
        self.program, self.values, self.title = program, values, title
        self.editor = Editor(program)
        self.copies: dict[str, Node] = {node.name: node for node in self.editor.graph.nodes}
        self.first = next(node for node in self.editor.graph.nodes if node.op != "placeholder")
        images = set(program.inputs)
        self.taken = [self.copies[node.name] for node in program.inputs if node in taken or not taken]
        self.absent = {self.copies[node.name] for node in images} - set(self.taken)
        with self.editor.before(self.first):
            for node in values.computed:
                if node in taken and node not in images:
                    self._take(node)

    def _take(self, node: Node) -> None:
        """Let a value be an input; the stage reads it in the shape that it had."""
        tensor, copy = self.values.tensors[node], self.copies[node.name]
        value = copy.meta["val"]
        given = self.editor.add_input(tensor.name, (self.editor.batch, *tensor.shape), value.dtype)
        self.taken.append(given)
        if given.meta["val"].ndim != value.ndim:
            given = self._reshaped(given, value.shape[1:], grid_of(node))
        self.editor.replace(copy, given)

    def made(self, nodes: Collection[Node]) -> dict[str, Node]:
        """Values as they cross, by name."""
        return {
            self.values.tensors[node].name: self._laid_out(node)
            for node in self.values.computed
            if node in nodes
        }

    def _laid_out(self, node: Node) -> Node:
        tensor, copy = self.values.tensors[node], self.copies[node.name]
        if copy.meta["val"].ndim == 1 + len(tensor.shape):
            return copy
        with self.editor.before(self.editor.graph.output_node()):
            return self._reshaped(copy, tensor.shape, grid_of(node))

    def _reshaped(self, value: Node, sizes: Sequence[int], grid: Grid | None) -> Node:
        """A value of other sizes behind the batch; converters reshape integers only between quantizers."""
        if grid is None:
            return self.editor.call(aten.reshape.default, value, [-1, *sizes])
        limits = (*grid, value.meta["val"].dtype)
        # One that is there already would be merged with another by whoever reads the graph.
        there = next((user for user in value.users if is_call(user, [DEQUANTIZE])), None)
        floats = there or self.editor.call(DEQUANTIZE, value, *limits)
        floats = self.editor.call(aten.reshape.default, floats, [-1, *sizes])
        return self.editor.call(QUANTIZE, floats, *limits)

    def results(self) -> dict[str, Node]:
        """The outputs of the whole; one that an earlier stage made is given as a copy."""
        names = self.program.card.outputs
        with self.editor.before(self.editor.graph.output_node()):
            return {
                name: self.editor.call(aten.clone.default, node) if node in self.taken else node
                for name, node in zip(names, self.editor.results[-len(names) :], strict=True)
            }

    def give(self, outputs: Mapping[str, Node]) -> None:
        """Give these values, and do nothing else."""
        self.editor.set_outputs(outputs)
        if self.absent and self.program.batch is None:
            self._read_sizes_of_taken()
        needed = ancestors(outputs.values())
        if not outputs or needed & self.absent:
            raise EdgevitError(
                f"cuts: {self.title} of {self.program.card.name} cannot be computed from what crosses "
                "into it; take cuts that find_cuts gives of it, each once and in their order"
            )
        for node in reversed(list(self.editor.graph.nodes)):
            if node.op not in ("placeholder", "output") and node not in needed:
                self.editor.graph.erase_node(node)

    def _read_sizes_of_taken(self) -> None:
        """Let every size be read off what the stage takes: what it was read off may not be there."""
        with self.editor.before(self.first):
            batch = self.editor.call(aten.sym_size.int, self.taken[0], 0)
        for node in calls(self.editor.graph, [aten.sym_size.int]):
            count = self.values.multiple(node.meta["val"])
            if node is not batch and count is not None:
                with self.editor.before(node):
                    size = batch if count == 1 else self.editor.call(operator.mul, batch, count)
                node.replace_all_uses_with(size)
        # Not off a tensor that nothing else needs: it would be sent for that alone.
        needed = ancestors(self.editor.results)
        read = (
            node for node in self.taken if any(user in needed for user in node.users if user is not batch)
        )
        batch.args = (next(read, self.taken[0]), 0)

    def finish(self, step: Step, *, last: bool) -> Program:
        """The stage as a program."""
        stage = self.editor.finish_as(step)
        if last:
            return stage
        # Labels are of logits.
        return Program(stage.exported, stage.card.model_copy(update={"labels": None}))
