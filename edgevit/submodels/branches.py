"""What may stand in for a whole residual branch of a submodel: its mean, or one linear layer.

A branch that adds little to its residual stream can go: its mean over images and positions is added instead,
which costs nothing (`skip`), or an affine function of the stream, the same at every position (`linear`). Both
are found in closed form on images, as the layers for smaller widths are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.fx import Node

from edgevit.errors import EdgevitError, closest
from edgevit.graph.axes import Dimensions, stored_tensors
from edgevit.graph.program import Program
from edgevit.graph.residual import ResidualBlock, residual_blocks
from edgevit.graph.rewriting import Editor, shape_of
from edgevit.graph.running import Runner, batches
from edgevit.pruning.regression import BATCH, HELD_OUT, Regression

Replacement = Literal["skip", "linear"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Stand:
    """What stands in for a branch: ``weight @ stream + bias`` at every position.

    Attributes:
        weight: (channels, channels); None where the mean alone does.
        bias: (channels,).
    """

    weight: torch.Tensor | None
    bias: torch.Tensor


@dataclass(frozen=True)
class Branch:
    """A residual branch that something else may stand in for.

    Attributes:
        block: its nodes.
        place: which dimension of the stream are the channels: the last one, or 1 of an NCHW tensor.
    """

    block: ResidualBlock
    place: int

    @property
    def result(self) -> str:
        """The node that gives what the branch adds."""
        return self.block.nodes[-1]

    def rows(self, value: torch.Tensor) -> torch.Tensor:
        """The channels at each position: (positions of all images, channels)."""
        return value.movedim(self.place, -1).flatten(0, -2)


def check_replacements(replacements: Collection[str]) -> None:
    """Refuse what cannot stand in for a branch.

    Raises:
        EdgevitError: naming the first.
    """
    for one in replacements:
        if one not in get_args(Replacement):
            raise EdgevitError(f"--blocks: {one!r} is unknown; {closest(one, get_args(Replacement))}")


def branches_of(dimensions: Dimensions) -> dict[str, Branch]:
    """The innermost residual branches by name, in the order of the network.

    A branch that holds others is none: its own choice and theirs could not be told apart. Neither is one
    whose stream has no dimension of channels that a layer could read.

    Args:
        dimensions: of a program as `edgevit.graph.rewrites.prepare_for_export` gives it.
    """
    program = dimensions.program
    blocks = residual_blocks(program)
    sums = {block.sum for block in blocks}
    nodes = {node.name: node for node in program.graph.nodes}
    # Positions are added up as well, and are fixed.
    streams = {leaf for axis, leaf in dimensions.axes().items() if axis.role == "residual" and not axis.fixed}
    found = {}
    for block in blocks:
        if not sums.isdisjoint(block.nodes):
            continue
        dims = dimensions.of[nodes[block.skip]]
        places = [place for place, dim in enumerate(dims) if not streams.isdisjoint(dim.leaves())]
        if len(places) == 1 and (places[0] == len(dims) - 1 or (len(dims), places[0]) == (4, 1)):
            found[block.name] = Branch(block, places[0])
    return found


def stands_for(
    program: Program,
    branches: Mapping[str, Branch],
    replacements: Collection[Replacement],
    images: torch.Tensor,
) -> dict[tuple[str, Replacement], Stand]:
    """What may stand in for each branch, by its name.

    A linear layer that is no better than the mean, on images that are held out, is left out.

    Args:
        program: of which the branches are.
        branches: as `branches_of` gives them.
        replacements: that are wanted.
        images: (n, channels, height, width) float32, prepared as the card says.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    regressions = {
        name: _nothing_yet(name, int(shape_of(nodes[branch.result])[branch.place]))
        for name, branch in branches.items()
    }
    by_result = {branch.result: name for name, branch in branches.items()}
    streams: dict[str, torch.Tensor] = {}
    seen: Counter[str] = Counter()

    def look(name: str, value: torch.Tensor) -> None:
        streams[name] = value
        if name in by_result:
            branch = branches[by_result[name]]
            read, wanted = branch.rows(streams[branch.block.skip]), branch.rows(value)
            regressions[by_result[name]].add(read, wanted, held_out=seen[name] % HELD_OUT == 1)
            seen[name] += 1

    watched = [name for branch in branches.values() for name in (branch.block.skip, branch.result)]
    runner = Runner(program)
    with torch.no_grad():
        for part in batches(images, BATCH):
            runner.observe(part, list(dict.fromkeys(watched)), look)
    return {key: stand for key, stand in _solved(regressions) if key[1] in replacements}


def _nothing_yet(name: str, channels: int) -> Regression:
    """A regression that starts from a layer which gives nothing."""
    return Regression(name, torch.zeros(channels, channels), torch.zeros(channels))


def _solved(regressions: Mapping[str, Regression]) -> Iterator[tuple[tuple[str, Replacement], Stand]]:
    for name, regression in regressions.items():
        regression.bias = regression.mean_wanted
        yield (name, "skip"), Stand(None, regression.bias)
        regression.solve()
        if regression.result.ridge is not None:
            yield (name, "linear"), Stand(regression.weight, regression.bias)


def put_in_place(editor: Editor, branch: Branch, stand: Stand) -> None:
    """Let something stand in for a branch in a graph that is being edited.

    A linear layer takes the node of the branch's result, and keeps its name: whoever knows the branch by that
    finds what stands for it.

    Args:
        editor: of the program of which the branch is, its channels as they were.
        branch: as `branches_of` gives it.
        stand: as `stands_for` gives it.
    """
    nodes = {node.name: node for node in editor.graph.nodes}
    result, total, skip = (nodes[name] for name in (branch.result, branch.block.sum, branch.block.skip))
    path = f"{branch.block.name.replace('#', '_')}.stand"
    first = branch.place == 1 and len(shape_of(skip)) == 4
    if stand.weight is None:
        bias = stand.bias[:, None, None] if first else stand.bias
        total.replace_input_with(result, editor.add_tensor(f"{path}.bias", bias, parameter=True))
        editor.evaluate_again(total)
        return
    weight = stand.weight[:, :, None, None] if first else stand.weight
    result.target = aten.conv2d.default if first else aten.linear.default
    result.args = (
        skip,
        editor.add_tensor(f"{path}.weight", weight, parameter=True),
        editor.add_tensor(f"{path}.bias", stand.bias, parameter=True),
    )
    result.kwargs = {}
    editor.evaluate_again(result)


def inside(dimensions: Dimensions, branch: Branch) -> frozenset[Node]:
    """The calls of a branch, and the stored tensors that nothing else reads."""
    names = set(branch.block.nodes)
    nodes = {node for node in dimensions.program.graph.nodes if node.name in names}
    alone = {node for node, _, _ in stored_tensors(dimensions.program) if nodes.issuperset(node.users)}
    return frozenset(nodes | alone)
