"""Reconstruction blocks: a graph in consecutive parts small enough to be learned one at a time.

Reconstruction (BRECQ, arXiv 2102.05426; QDrop, arXiv 2203.05740) adjusts the rounding of one block's
weights until its output is the float one again. A block should be what the network was built of: the two
branches of a transformer layer, an inverted bottleneck, a bridge block (`edgevit.quant.bridges`). They are
put together from the segments of the graph, as `edgevit.quant.grouping` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch.export.graph_signature import InputKind
from torch.fx import Node

from edgevit.graph.costs import macs_by_node
from edgevit.graph.program import Program
from edgevit.graph.rewriting import shared_path
from edgevit.quant.grouping import Kind, group
from edgevit.quant.segments import Segment, segments


@dataclass(frozen=True)
class Block:
    """One reconstruction block.

    Attributes:
        kind: what it is by its structure; "linear" has neither convolution nor attention.
        name: its module's dotted path, or from which part of a module to which; without modules its nodes.
        nodes: names of its calls in graph order, those included that no image reaches.
        inputs: names of the activations it reads; several where streams run side by side.
        outputs: names of its nodes that later blocks read, or that the graph returns.
    """

    kind: Kind
    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class BlockCost:
    """What a block weighs.

    Attributes:
        parameters: trained values; shared ones count where they are read first.
        macs: multiply-accumulates of matrix products and convolutions for one image.
    """

    parameters: int
    macs: int


def find_blocks(program: Program) -> tuple[Block, ...]:
    """Partition a program's calls into reconstruction blocks.

    The graph may be as captured or rewritten for export: what is named are nodes of the one given.

    Returns:
        The blocks in the order in which they run. Every call that the outputs depend on is in exactly one,
        and each has a layer with weights, if the graph has any. Sizes that depend on the batch, and other
        values that no image reaches, are not counted as inputs.
    """
    found = group(segments(program))
    members = [part.segments for part in found]
    calls = _calls(program, members)
    return tuple(
        Block(
            kind=part.kind,
            name=name,
            nodes=tuple(node.name for node in nodes),
            inputs=_inputs(part.segments),
            outputs=_outputs(part.segments),
        )
        for part, name, nodes in zip(found, _names(members, calls), calls, strict=True)
    )


def block_costs(program: Program, blocks: Sequence[Block]) -> tuple[BlockCost, ...]:
    """Parameters and multiply-accumulates of each block; the graph runs once."""
    macs = macs_by_node(program)
    parameters = {
        spec.arg.name: program.exported.state_dict[str(spec.target)].numel()
        for spec in program.exported.graph_signature.input_specs
        if spec.kind is InputKind.PARAMETER
    }
    nodes = {node.name: node for node in program.graph.nodes}
    costs = []
    for block in blocks:
        read = {source.name for name in block.nodes for source in nodes[name].all_input_nodes}
        counted = sum(parameters.pop(name) for name in sorted(read & parameters.keys()))
        costs.append(BlockCost(counted, sum(macs[name] for name in block.nodes)))
    return tuple(costs)


def _calls(program: Program, blocks: Sequence[Sequence[Segment]]) -> list[list[Node]]:
    """The nodes of blocks, and with them the calls that no image reaches, each where it is read first."""
    owner = {
        node: number for number, block in enumerate(blocks) for segment in block for node in segment.nodes
    }
    for node in reversed(program.graph.nodes):
        readers = [owner[user] for user in node.users if user in owner]
        if node.op == "call_function" and node not in owner and readers:
            owner[node] = min(readers)
    calls: list[list[Node]] = [[] for _ in blocks]
    for node in program.graph.nodes:
        if node in owner:
            calls[owner[node]].append(node)
    return calls


def _inputs(block: Sequence[Segment]) -> tuple[str, ...]:
    inside = {node for segment in block for node in segment.nodes}
    read = [node for segment in block for node in segment.inputs if node not in inside]
    return tuple(dict.fromkeys(node.name for node in read))


def _outputs(block: Sequence[Segment]) -> tuple[str, ...]:
    inside = {node for segment in block for node in segment.nodes}
    made = [node for segment in block for node in segment.outputs]
    read_later = [node for node in made if not inside.issuperset(node.users)]
    return tuple(node.name for node in read_later or made[-1:])


def _names(members: Sequence[Sequence[Segment]], calls: Sequence[Sequence[Node]]) -> list[str]:
    """A name for each block, no two alike; without modules the first and the last node."""
    layers = [[node for segment in block for node in segment.layers] for block in members]
    paths = [[shared_path([node]) for node in nodes] for nodes in layers]
    names = []
    for number, (block, nodes) in enumerate(zip(members, calls, strict=True)):
        whole = shared_path(node for segment in block for node in _telling(segment))
        others = [path for other in (*paths[:number], *paths[number + 1 :]) for path in other]
        names.append(_name(whole, layers[number], others) or f"{nodes[0].name}..{nodes[-1].name}")
    alike = Counter(names)
    return [
        name if alike[name] == 1 else f"{name} ({nodes[0].name}..{nodes[-1].name})"
        for name, nodes in zip(names, calls, strict=True)
    ]


def _name(whole: str, layers: Sequence[Node], others: Sequence[str]) -> str:
    """The module that a block has to itself, with its sum or without; or from which part of one to which."""
    path = shared_path(layers)
    for module in (whole, path):
        if module and not any(f"{other}.".startswith(f"{module}.") for other in others):
            return module
    return _part(path, layers) if layers else ""


def _telling(segment: Segment) -> tuple[Node, ...]:
    """The nodes by whose modules a segment is named: the branch with its sum, or the layers of a chain."""
    return segment.nodes if segment.attends or segment.residual else segment.layers


def _part(path: str, layers: Sequence[Node]) -> str:
    """From which child of a module to which, by the first and the last layer."""
    first, last = (_child(shared_path([node]), path) for node in (layers[0], layers[-1]))
    span = first if first == last else f"{first}..{last}"
    return ".".join(part for part in (path, span) if part)


def _child(path: str, parent: str) -> str:
    """The child of `parent` on the way to `path`: down to the first number, if one follows.

    >>> _child("stages.2.1.transformer.0.mlp.fc1", "stages.2.1"), _child("head.fc", "")
    ('transformer.0', 'head')
    """
    parts = path.split(".")[len(parent.split(".")) if parent else 0 :]
    count = 2 if parts[1:2] and parts[1].isdigit() and not parts[0].isdigit() else 1
    return ".".join(parts[:count])
