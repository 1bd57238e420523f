"""Where a graph may be cut into stages that run one after the other, on several devices.

A cut divides what is computed from the image into what comes before and what comes behind. Which cuts are
worth having? Those with the same arithmetic before them (products, convolutions, attention: what
`edgevit.graph.costs` counts) differ in what is moved, added or bent between two arithmetic calls, which
costs a device little, and in the bytes that cross, which may be many: a residual stream alone, or beside
a normalised copy of it; a tensor, or a wider expansion of it; integers, or the floats that they stand
for. So of all cuts with the same arithmetic before them, the one with the fewest bytes is taken; of
these, one of the fewest tensors; and of these the latest, because runtimes compute an activation in the
kernel of the layer before it, which a cut between the two would take apart.

That is one cut behind every arithmetic call, found as the minimum of a flow (`edgevit.graph.min_cut`) and
not along one order of all calls: what is no arithmetic goes to the side where fewer bytes cross, alone or
with others. None is left out for having more bytes than its neighbour: it has other arithmetic on either
side, and pays where the link is fast. Only before all arithmetic is a cut left out that spares no bytes
of the image. The cuts are nested, so any of them, in order, give stages. Where nothing may cross
(`edgevit.graph.crossing`) there is none.

What is computed from parameters alone is on neither side: each stage that needs it has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.axes import stored_tensors
from edgevit.graph.costs import macs_by_node
from edgevit.graph.crossing import CutTensor, Values, WirePrecision
from edgevit.graph.liveness import live_bytes
from edgevit.graph.min_cut import cheapest_closed_set
from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import in_place_calls, make_functional
from edgevit.graph.rewriting import module_path

# A byte weighs more than all tensors that can cross, and a tensor more than that it is not dense.
_BYTE, _TENSOR = 1 << 20, 1 << 10


@dataclass(frozen=True)
class Cut:
    """One place to cut.

    Attributes:
        tensors: what crosses, in the order in which it is made.
        module: the module that ends there, as in ``blocks.3``, or inside of which it is; empty where
            the graph does not say, and where no arithmetic is before it.
        after: the arithmetic call that it is behind, or the last whose result crosses where there is none.
        macs: multiply-accumulates before it, for one image.
        weight_bytes: of the parameters, buffers and constants that are read before it.
    """

    tensors: tuple[CutTensor, ...]
    module: str
    after: str
    macs: int
    weight_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of one image that cross, as they are."""
        return sum(tensor.bytes for tensor in self.tensors)

    def bytes_at(self, precision: WirePrecision) -> int:
        """Bytes of one image that cross, floats being sent in a precision."""
        return sum(tensor.bytes_at(precision) for tensor in self.tensors)


@dataclass(frozen=True)
class Segment:
    """What lies between two neighbouring cuts.

    Of several segments in a row, as one stage has them, multiply-accumulates add up, weight bytes add up at
    most (a tensor that two of them read is in both), and of activation bytes the largest counts.

    Attributes:
        macs: multiply-accumulates for one image.
        weight_bytes: of the parameters, buffers and constants that it reads.
        activation_bytes: of one image, at the call where the most values are there; those that only pass
            from the cut before it to the cut behind it are among them.
        calls: how many it has.
        made_bytes: of one image, of the results of all its calls.
    """

    macs: int
    weight_bytes: int
    activation_bytes: int
    calls: int = 0
    made_bytes: int = 0


@dataclass(frozen=True)
class Chain:
    """The cuts of a graph, and what lies between them.

    Attributes:
        cuts: in the order of the graph.
        segments: one more than cuts.
    """

    cuts: tuple[Cut, ...]
    segments: tuple[Segment, ...]


def find_cuts(program: Program) -> Chain:
    """The useful cuts of a program, in the order of its graph: see the head of this module.

    Args:
        program: a float one, best as `edgevit.graph.rewrites.prepare_for_export` gives it, in which operators
            are fewer; or a quantized one, whose integers cross.

    Raises:
        EdgevitError: when the graph writes to a tensor in place that something else reads.
    """
    graph = _Graph(functional(program))
    sets = [found for found in _closed_sets(graph) if _pays(graph, found)]
    segments = _segments(graph, sets)
    return Chain(tuple(_cuts(graph, sets, segments)), tuple(segments))


class _Graph:
    """A program's graph and what its calls cost."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values = Values(program)
        self.order = list(self.values.computed)
        self.output = program.graph.output_node()
        self.macs = macs_by_node(program)
        self.arithmetic = [node for node in self.order if self.macs.get(node.name)]
        self.readers: dict[Node, list[Node]] = {node: [] for node in (*self.order, self.output)}
        for node in (*self.order, self.output):
            for source in self.values.read_by(node):
                self.readers[source].append(node)
        self._stored = {node: value for node, _, value in stored_tensors(program)}

    def crossing(self, before: Collection[Node]) -> list[Node]:
        """What is read behind a closed set, in order."""
        return [
            node
            for node in self.order
            if node in before and any(reader not in before for reader in self.readers[node])
        ]

    def constants(self, nodes: Collection[Node]) -> set[Node]:
        """What calls read that is computed from parameters alone, and those."""
        found, pending = set[Node](), list(nodes)
        while pending:
            for source in pending.pop().all_input_nodes:
                if source not in self.values.computed and source not in found:
                    found.add(source)
                    pending.append(source)
        return found

    def weight_bytes(self, nodes: Collection[Node]) -> int:
        """Bytes of the stored tensors that calls read; of a tensor of several names, once."""
        read = (self._stored[node] for node in self.constants(nodes) if node in self._stored)
        return sum({value.data_ptr(): value.nbytes for value in read}.values())


def functional(program: Program) -> Program:
    """The program as it can be cut: one that writes nothing in place.

    Raises:
        EdgevitError: when something would not do without.
    """
    program = make_functional(program)
    left = in_place_calls(program.graph)
    if left:
        raise EdgevitError(
            f"{program.card.name}: {left[0].format_node()} writes to a tensor that something else reads, "
            "so no cut can be told from the graph"
        )
    return program


def _closed_sets(graph: _Graph) -> Iterator[set[Node]]:
    """The cheapest set before every arithmetic call, each with all that the one before it has."""
    costs = {
        node: _BYTE * tensor.bytes + _TENSOR + (not node.meta["val"].is_contiguous())
        for node, tensor in graph.values.tensors.items()
    }
    behind = _behind(graph)
    before = set(graph.program.inputs)
    for place, node in enumerate(graph.arithmetic):
        found = cheapest_closed_set(graph.readers, costs, before, behind[place])
        if found is not None:
            yield found[1]
        before |= _with_all_it_reads(graph, node, before)


def _behind(graph: _Graph) -> list[set[Node]]:
    """For every arithmetic call, it and those that follow, and whatever is computed from one of them."""
    found, behind = [], {graph.output}
    for node in reversed(graph.arithmetic):
        behind = {*behind, node}
        pending = [node]
        while pending:
            new = set(graph.readers[pending.pop()]) - behind
            behind |= new
            pending.extend(new)
        found.append(behind)
    return found[::-1]


def _with_all_it_reads(graph: _Graph, node: Node, known: Collection[Node]) -> set[Node]:
    found, pending = {node}, [node]
    while pending:
        new = set(graph.values.read_by(pending.pop())) - found - set(known)
        found |= new
        pending.extend(new)
    return found


def _pays(graph: _Graph, before: Collection[Node]) -> bool:
    """Whether a cut has arithmetic before it, or makes fewer bytes of what the program is given."""
    if any(node in before for node in graph.arithmetic):
        return True
    tensors = graph.values.tensors
    given = sum(tensors[node].bytes for node in graph.program.inputs)
    return sum(tensors[node].bytes for node in graph.crossing(before)) < given


def _segments(graph: _Graph, sets: Sequence[set[Node]]) -> list[Segment]:
    parts: list[list[Node]] = [[] for _ in range(len(sets) + 1)]
    for node in graph.order:
        parts[next((place for place, found in enumerate(sets) if node in found), len(sets))].append(node)
    order = [node for part in parts for node in part]
    live = dict(zip(order, live_bytes(graph.values, order, graph.values.read_by(graph.output)), strict=True))
    return [
        Segment(
            macs=sum(graph.macs.get(node.name, 0) for node in (*part, *graph.constants(part))),
            weight_bytes=graph.weight_bytes(part),
            activation_bytes=max((live[node] for node in part), default=0),
            calls=len(part),
            made_bytes=sum(graph.values.tensors[node].bytes for node in part if node in graph.values.tensors),
        )
        for part in parts
    ]


def _cuts(graph: _Graph, sets: Sequence[set[Node]], segments: Sequence[Segment]) -> Iterator[Cut]:
    macs = 0
    for found, segment in zip(sets, segments, strict=False):
        macs += segment.macs
        inside = [node for node in graph.arithmetic if node in found]
        crossing = graph.crossing(found)
        following = next(node for node in graph.arithmetic if node not in found)
        yield Cut(
            tensors=tuple(graph.values.tensors[node] for node in crossing),
            module=_ended(module_path(inside[-1]), module_path(following)) if inside else "",
            after=(inside or crossing)[-1].name,
            macs=macs,
            weight_bytes=graph.weight_bytes(found),
        )


def _ended(before: str, behind: str) -> str:
    """The outermost module that has ended between a call of one path and a call of another.

    >>> _ended("blocks.3.mlp.fc2", "blocks.4.attn.qkv"), _ended("blocks.3.attn", "blocks.3.attn.proj")
    ('blocks.3', 'blocks.3.attn')
    """
    parts, others = before.split("."), behind.split(".")
    shared = 0
    while shared < min(len(parts), len(others)) and parts[shared] == others[shared]:
        shared += 1
    return ".".join(parts[: shared + 1])
