"""Reconstruction blocks: a graph in consecutive parts small enough to be learned one at a time.

Reconstruction (BRECQ, arXiv 2102.05426; QDrop, arXiv 2203.05740) adjusts the rounding of one block's
weights until its output is the float one again. A block should be what the network was built of: the two
branches of a transformer layer, an inverted bottleneck, a bridge block (`edgevit.quant.bridges`). They are
put together here from the segments of the graph (`edgevit.quant.segments`) by structure alone:

* an attention opens a block, which ends with its feed-forward branch; what stands before it and is nothing
  but linear layers, as a patch merging is, comes along;
* another residual branch is a block, together with branches before it that leave channels apart (pooling,
  depthwise convolutions);
* a chain of convolutions goes on while an activation follows, so that it ends at a linear bottleneck, and
  ends besides where an inverted bottleneck or a residual branch begins;
* what a bridge block reaches over on one side of the transformer stage stays in one block;
* the stem is the convolutions on the image alone, the head all that follows the last branch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call
from edgevit.quant.bridges import Crossing, crossings
from edgevit.quant.segments import ADDITIONS, Segment, is_depthwise, module_path, segments, widens

aten = torch.ops.aten

Kind = Literal["stem", "conv", "transformer", "bridge", "linear", "head"]

# A bridge block, by its number, and the side of it: "enter" or "leave".
Part = tuple[int, str]

# What makes one vector of a map or of tokens.
_POOLS = frozenset({aten.mean.dim, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default})


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


@dataclass
class _Group:
    """Segments on their way to become a block.

    Attributes:
        members: positions in the row.
        part: the bridge block, and the side of it, that it holds.
        awaits: whether it ends with an attention whose feed-forward is still to come.
        chain: whether its last layer stands in a chain, not in a branch.
        activated: whether an activation has followed that layer.
    """

    members: list[int] = field(default_factory=list)
    part: Part | None = None
    awaits: bool = False
    chain: bool = False
    activated: bool = False

    def take(self, index: int, segment: Segment, part: Part | None) -> None:
        """Add a segment."""
        self.members.append(index)
        self.part = part or self.part
        if segment.attends:
            self.awaits, self.chain = True, False
        elif segment.residual:
            self.awaits, self.chain = self.awaits and not segment.mixes_channels, False
        elif segment.layers and not segment.gates:
            self.awaits = self.awaits and not _is_mixing_convolution(segment)
            self.chain, self.activated = True, segment.activates
        else:
            self.activated |= segment.activates


def find_blocks(program: Program) -> tuple[Block, ...]:
    """Partition a program's calls into reconstruction blocks.

    The graph may be as captured or rewritten for export: what is named are nodes of the one given.

    Returns:
        The blocks in the order in which they run. Every call that the outputs depend on is in exactly one,
        and each has a layer with weights, if the graph has any. Sizes that depend on the batch, and other
        values that no image reaches, are not counted as inputs.
    """
    row = segments(program)
    grouping = _Grouping(row)
    groups = _with_layers(row, grouping.groups())
    members = [[row[index] for index in group.members] for group in groups]
    calls = _calls(program, members)
    return tuple(
        Block(
            kind=grouping.kind(group),
            name=name,
            nodes=tuple(node.name for node in nodes),
            inputs=_inputs(block),
            outputs=_outputs(block),
        )
        for group, block, name, nodes in zip(groups, members, _names(members, calls), calls, strict=True)
    )


def block_costs(program: Program, blocks: Sequence[Block]) -> tuple[BlockCost, ...]:
    """Parameters and multiply-accumulates of each block; the graph runs once."""
    macs = _macs_by_node(program)
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


class _Grouping:
    """Which segments make a block together."""

    def __init__(self, row: tuple[Segment, ...]) -> None:
        self.row = row
        self.part = _parts(crossings(row))
        self.head = _head(row, self.part.keys())

    def groups(self) -> list[_Group]:
        """The row, grouped."""
        groups: list[_Group] = []
        for index, segment in enumerate(self.row):
            if not groups or not self._joins(groups[-1], index):
                groups.append(_Group())
            groups[-1].take(index, segment, self.part.get(index))
        return groups

    def kind(self, group: _Group) -> Kind:
        """What a group is by its structure."""
        members = [self.row[index] for index in group.members]
        if group.part is not None:
            return "bridge"
        if any(segment.attends for segment in members):
            return "transformer"
        if group.members[-1] >= self.head:
            return "head"
        if self._is_first(group):
            return "stem"
        return "conv" if any(segment.convolutions for segment in members) else "linear"

    def _joins(self, group: _Group, index: int) -> bool:
        segment = self.row[index]
        if index in self.part:
            return self._joins_as_bridge(group, index)
        if index >= self.head:
            return index > self.head
        if segment.attends:
            return self._leads_in(group)
        if segment.residual:
            return group.awaits or self._only_mixes_places(group)
        if segment.gates:
            return group.chain
        return self._goes_on(group, index) if segment.layers else True

    def _joins_as_bridge(self, group: _Group, index: int) -> bool:
        """Whether a segment of a bridge block belongs to what is before it.

        That is the rest of its side, the attention from which it leaves, or an unfinished chain; the stem
        keeps to itself.
        """
        same_side = group.part == self.part[index]
        leaves = group.awaits and self.part[index][1] == "leave"
        unfinished = group.chain and group.activated and group.part is None and not self._is_first(group)
        return same_side or leaves or unfinished or self._only_mixes_places(group)

    def _goes_on(self, group: _Group, index: int) -> bool:
        """Whether a layer outside any branch continues what is before it."""
        segment = self.row[index]
        if group.awaits:
            return not _is_mixing_convolution(segment)
        if not any(self.row[member].layers for member in group.members):
            return True
        if not (group.chain and group.activated):
            return False
        if self._is_first(group):
            return segment.mixes_neighbours and segment.mixes_channels
        return not self._starts_bottleneck(index)

    def _starts_bottleneck(self, index: int) -> bool:
        """Whether this widens for the depthwise convolution after it (MobileNetV2, arXiv 1801.04381)."""
        layers = (segment for segment in self.row[index + 1 :] if segment.layers and not segment.gates)
        following = next(layers, None)
        if following is None or following.residual:
            return False
        return any(map(widens, self.row[index].layers)) and any(map(is_depthwise, following.layers))

    def _is_first(self, group: _Group) -> bool:
        return group.members[0] == 0

    def _leads_in(self, group: _Group) -> bool:
        """Whether a group comes along with an attention: linear layers in a chain, or mixers of places."""
        members = [self.row[index] for index in group.members]
        branches = any(segment.residual or segment.attends or segment.convolutions for segment in members)
        return self._only_mixes_places(group) or not (branches or self._is_first(group))

    def _only_mixes_places(self, group: _Group) -> bool:
        """Whether a group has nothing but branches that leave channels apart, by pooling or depthwise."""
        members = [self.row[index] for index in group.members]
        return not any(
            segment.attends or segment.mixes_channels or (segment.layers and not segment.residual)
            for segment in members
        )


def _parts(found: Sequence[Crossing]) -> dict[int, Part]:
    """Which side of which bridge block each segment is on, from the first of a side to its last."""
    parts: dict[int, Part] = {}
    sides = [(number, side, way) for number, crossing in enumerate(found) for side, way in crossing.sides()]
    for number, side, way in sides:
        parts |= dict.fromkeys(way, (number, side))
    for number, side, way in sides:
        # Another stream may take a step in between (TNT makes its outer tokens there).
        for index in range(way[0], way[-1]):
            parts.setdefault(index, (number, side))
    return parts


def _is_mixing_convolution(segment: Segment) -> bool:
    return bool(segment.convolutions) and segment.mixes_channels


def _head(row: tuple[Segment, ...], in_bridges: Collection[int]) -> int:
    """Where the head begins: with the pooling or first layer after the body of the network."""
    last = max((i for i, segment in enumerate(row) if i in in_bridges or _is_body(segment)), default=0)
    last = _completed(row, last)
    rest = range(last + 1, len(row))
    if not any(row[i].layers for i in rest):
        return len(row)
    # A branch is complete with its sum: the norm behind it is the head's. A convolution's is its own.
    is_sum = row[last].residual or _sums_streams(row[last])
    return next(i for i in rest if is_sum or row[i].layers or _pools(row[i]))


def _completed(row: tuple[Segment, ...], last: int) -> int:
    """Where the body ends: a depthwise convolution is complete with the pointwise one after it."""
    layers = [i for i, segment in enumerate(row) if segment.layers and not segment.gates]
    before = [row[i] for i in layers if i <= last][-1:]
    after = [i for i in layers if i > last and row[i].convolutions][:1]
    is_half = any(
        segment.convolutions and not (segment.residual or segment.mixes_channels) for segment in before
    )
    return after[0] if is_half and after else last


def _is_body(segment: Segment) -> bool:
    is_branch = segment.attends or segment.residual or segment.gates
    return is_branch or segment.mixes_neighbours or _sums_streams(segment)


def _sums_streams(segment: Segment) -> bool:
    """Whether a skip that passed other segments by ends here."""
    return not segment.layers and len(segment.inputs) > 1 and is_call(segment.nodes[-1], ADDITIONS)


def _pools(segment: Segment) -> bool:
    return any(is_call(node, _POOLS) for node in segment.nodes)


def _with_layers(row: tuple[Segment, ...], groups: list[_Group]) -> list[_Group]:
    """The groups, those without a layer joined to the one before them, the first to the one after it."""
    kept: list[_Group] = []
    for group in groups:
        has_layers = any(row[index].layers for index in group.members)
        if kept and not (has_layers and any(row[index].layers for index in kept[-1].members)):
            kept[-1].members += group.members
            kept[-1].part = kept[-1].part or group.part
        else:
            kept.append(group)
    return kept


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
    paths = [[module_path([node]) for node in nodes] for nodes in layers]
    names = []
    for number, (block, nodes) in enumerate(zip(members, calls, strict=True)):
        whole = module_path(node for segment in block for node in _telling(segment))
        others = [path for other in (*paths[:number], *paths[number + 1 :]) for path in other]
        names.append(_name(whole, layers[number], others) or f"{nodes[0].name}..{nodes[-1].name}")
    alike = Counter(names)
    return [
        name if alike[name] == 1 else f"{name} ({nodes[0].name}..{nodes[-1].name})"
        for name, nodes in zip(names, calls, strict=True)
    ]


def _name(whole: str, layers: Sequence[Node], others: Sequence[str]) -> str:
    """The module that a block has to itself, with its sum or without; or from which part of one to which."""
    path = module_path(layers)
    for module in (whole, path):
        if module and not any(f"{other}.".startswith(f"{module}.") for other in others):
            return module
    return _part(path, layers) if layers else ""


def _telling(segment: Segment) -> tuple[Node, ...]:
    """The nodes by whose modules a segment is named: the branch with its sum, or the layers of a chain."""
    return segment.nodes if segment.attends or segment.residual else segment.layers


def _part(path: str, layers: Sequence[Node]) -> str:
    """From which child of a module to which, by the first and the last layer."""
    first, last = (_child(module_path([node]), path) for node in (layers[0], layers[-1]))
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


def _macs_by_node(program: Program) -> dict[str, int]:
    """Multiply-accumulates of each call for one image, by torch's own counter."""
    counts: dict[str, int] = {}
    batch = program.batch or 1

    class _Counting(Interpreter):
        def run_node(self, n: Node) -> Any:
            before = counter.get_total_flops()
            value = super().run_node(n)
            counts[n.name] = int(counter.get_total_flops() - before) // 2 // batch
            return value

    image = torch.zeros(batch, *program.card.preprocessing.input_shape)
    # torch counts the attention kernels of GPUs, and not the one of a CPU: as matrix products it counts it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _Counting(program.module).run(image)
    return counts
