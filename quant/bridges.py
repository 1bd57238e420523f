"""Bridge blocks: where a network passes from convolution to transformer and back.

Q-HyViT (arXiv 2303.12557) quantizes a hybrid vision transformer with the output of its bridge blocks in
view, for they lose most, and lists them by hand for every model. Here they are found on the graph, cut
into segments (`edgevit.quant.segments`), by two rules:

1. **A feature map becomes tokens.** An attention opens a transformer stage when, on the way back to the
   attention before it or to the image, there is a convolution stage: a convolution over overlapping
   neighbourhoods, and a layer that mixes channels, beside the feed-forward branch of the attention
   before. The bridge block reaches from the last convolution to that attention, and, where tokens become
   a feature map again, from the last attention of the stage to the next convolution. Entering and leaving
   one stage is one block.
2. **Two streams look at each other.** Where a feature map and tokens live on side by side, as in
   Mobile-Former (arXiv 2108.05895), each cross-attention from one to the other is a bridge block of its
   own, if it leads on to a stage: tokens to an attention among themselves, a feature map to a convolution
   over neighbourhoods. Otherwise only the classifier is left, and there is nothing to bridge to. Of the 17
   cross-attentions of Mobile-Former-26M that leaves 15, the number published.

Pointwise convolutions are linear layers and make no stage: MobileViTv2's whole transformer and the queries
of EfficientFormerV2 consist of them. Nor does a depthwise one by itself (a position code, TinyViT's local
convolution), or a patch embedding, whose neighbourhoods do not overlap: a plain ViT has no bridge block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import shared_path
from edgevit.quant.segments import Segment, segments

Direction = Literal["map->tokens", "tokens->map", "both"]

_IN_WORDS: dict[Direction, str] = {
    "map->tokens": "a feature map becomes tokens",
    "tokens->map": "tokens become a feature map",
    "both": "a feature map becomes tokens, and a feature map again",
}
_MAP_RANK, _TOKEN_RANK = 4, 3


@dataclass(frozen=True)
class Bridge:
    """One bridge block.

    Attributes:
        direction: which way it is passed.
        enter: names of the nodes from the last convolution to the first attention, in graph order.
        leave: names of the nodes from the last attention to the first convolution.
        description: the innermost module around it, and what happens there, in words.
    """

    direction: Direction
    enter: tuple[str, ...]
    leave: tuple[str, ...]
    description: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """All its nodes, in graph order."""
        return self.enter + self.leave

    @property
    def first(self) -> str:
        """Its first node."""
        return self.nodes[0]

    @property
    def last(self) -> str:
        """Its last node."""
        return self.nodes[-1]


class Crossing(NamedTuple):
    """A bridge block as segments: positions in the row."""

    enter: tuple[int, ...]
    leave: tuple[int, ...]

    def sides(self) -> list[tuple[str, tuple[int, ...]]]:
        """The sides that it has, with their names."""
        return [(name, way) for name, way in (("enter", self.enter), ("leave", self.leave)) if way]


class _Between(NamedTuple):
    """What lies between an attention and one before it.

    Attributes:
        neighbours: a convolution over overlapping neighbourhoods.
        channels: a layer that mixes channels.
        branch: the same two of the residual branch next to the earlier attention: its feed-forward.
    """

    neighbours: bool = False
    channels: bool = False
    branch: tuple[bool, bool] = (False, False)

    def after(self, segment: Segment) -> _Between:
        """With one more segment, further back."""
        found = (segment.mixes_neighbours, segment.mixes_channels)
        if segment.residual and not segment.mixes_channels:
            # A position code, or a mixer of places such as EfficientViT's (arXiv 2305.07027).
            return self
        outside, branch = (self.branch, found) if segment.residual else (found, self.branch)
        return _Between(self.neighbours or outside[0], self.channels or outside[1], branch)

    def with_branch(self) -> _Between:
        """The branch counted as well: it is no feed-forward where there is no earlier attention."""
        return _Between(self.neighbours or self.branch[0], self.channels or self.branch[1])

    @property
    def is_stage(self) -> bool:
        """Whether this is a convolution stage, feed-forward not counted."""
        return self.neighbours and self.channels


def find_bridges(program: Program) -> tuple[Bridge, ...]:
    """Find a program's bridge blocks.

    The graph may be as captured or rewritten for export: what is named are nodes of the one given.

    Returns:
        One `Bridge` for each, in graph order; none where convolution and attention do not meet.
    """
    row = segments(program)
    return tuple(_bridge(row, crossing) for crossing in crossings(row))


def crossings(row: tuple[Segment, ...]) -> tuple[Crossing, ...]:
    """The bridge blocks in a row of segments; no segment is in two."""
    streams = _Streams(row)
    opening = [index for index in range(len(row)) if streams.opens_stage(index)]
    entering = {index: streams.way_in(index) for index in opening}
    taken = {index for way in entering.values() for index in way}
    found = [
        Crossing(way, tuple(index for index in streams.way_out(opens) if index not in taken))
        for opens, way in entering.items()
    ]
    for index, segment in enumerate(row):
        if streams.crosses(index) and streams.leads_on(index):
            to_map = _rank(segment.carried) == _MAP_RANK
            found.append(Crossing((), (index,)) if to_map else Crossing((index,), ()))
    return tuple(sorted(found, key=lambda crossing: crossing.enter + crossing.leave))


class _Streams:
    """How segments follow each other, back to what they read and on to what continues them."""

    def __init__(self, row: tuple[Segment, ...]) -> None:
        self.row = row
        self._maker = {node: index for index, segment in enumerate(row) for node in segment.nodes}
        self._next: dict[int, list[int]] = {}
        for index, segment in enumerate(row):
            if segment.trunk in self._maker:
                self._next.setdefault(self._maker[segment.trunk], []).append(index)
        self.opens_stage = cache(self._opens_stage)

    def crosses(self, index: int) -> bool:
        """Whether this is an attention of one stream to another, one a feature map, the other tokens."""
        segment = self.row[index]
        if segment.carried is None or not segment.attends:
            return False
        return any(
            {_rank(segment.carried), _rank(other)} == {_MAP_RANK, _TOKEN_RANK} for other in segment.inputs
        )

    def leads_on(self, index: int) -> bool:
        """Whether what a cross-attention gives reaches another stage before the next cross-attention."""
        to_map = _rank(self.row[index].carried) == _MAP_RANK
        waiting = list(self._next.get(index, ()))
        while waiting:
            reached = waiting.pop()
            if self.crosses(reached):
                continue
            segment = self.row[reached]
            if segment.mixes_neighbours if to_map else segment.attends:
                return True
            waiting += self._next.get(reached, ())
        return False

    def _opens_stage(self, index: int) -> bool:
        """Whether an attention has a convolution stage before it on every way back."""
        if not self.row[index].attends or self.crosses(index):
            return False
        opens, waiting, seen = False, [(index, _Between())], set[tuple[int, _Between]]()
        while waiting:
            at, between = waiting.pop()
            for before in self._before(at):
                if before is None:
                    opens |= between.with_branch().is_stage
                elif self.row[before].attends and not between.is_stage:
                    return False
                elif self.row[before].attends:
                    opens = True
                elif (step := (before, between.after(self.row[before]))) not in seen:
                    seen.add(step)
                    waiting.append(step)
        return opens

    def _before(self, index: int) -> set[int | None]:
        """The segments that made what this one reads; None stands for the image."""
        return {self._maker.get(node) for node in self.row[index].inputs}

    def way_in(self, opens: int) -> tuple[int, ...]:
        """The segments from the last convolution to the attention that opens a stage."""
        way = [opens]
        while (before := self._maker.get(self.row[way[0]].trunk)) is not None:
            if self.row[before].attends:
                break
            way.insert(0, before)
            if self.row[before].convolutions:
                return tuple(way)
        return (opens,)

    def way_out(self, opens: int) -> tuple[int, ...]:
        """The segments from the last attention of a stage to the first convolution, the feed-forward between.

        Empty where no convolution follows.
        """
        way: list[int] = []
        for index in self._onwards(opens):
            way = [] if self.row[index].attends else [*way, index]
        has_branch = False
        for count, index in enumerate(way, start=1):
            segment = self.row[index]
            if segment.residual and not has_branch:
                has_branch = True
            elif segment.convolutions and (segment.mixes_channels or has_branch):
                return tuple(way[:count])
        return ()

    def _onwards(self, index: int) -> Iterator[int]:
        """The segments that continue one, up to the next stage."""
        while following := self._next.get(index):
            index = following[0]
            if self.opens_stage(index):
                return
            yield index


def _bridge(row: tuple[Segment, ...], crossing: Crossing) -> Bridge:
    enter, leave = ([node for index in way for node in row[index].nodes] for way in crossing)
    direction: Direction = "both" if enter and leave else "map->tokens" if enter else "tokens->map"
    nodes = enter + leave
    where = shared_path(nodes) or "the model"
    return Bridge(
        direction=direction,
        enter=tuple(node.name for node in enter),
        leave=tuple(node.name for node in leave),
        description=f"{where}: {_IN_WORDS[direction]} ({nodes[0].name} .. {nodes[-1].name})",
    )


def _rank(node: Node | None) -> int:
    return len(getattr(node.meta["val"], "shape", ())) if node is not None else 0
