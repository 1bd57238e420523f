"""Which segments of a graph make one reconstruction block.

By structure alone:

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

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from edgevit.graph.rewriting import is_call
from edgevit.quant.bridges import Crossing, crossings
from edgevit.quant.mixing import is_depthwise, widens
from edgevit.quant.segments import ADDITIONS, Segment

aten = torch.ops.aten

Kind = Literal["stem", "conv", "transformer", "bridge", "linear", "head"]

# A bridge block, by its number, and the side of it: "enter" or "leave".
Part = tuple[int, str]

# What makes one vector of a map or of tokens.
_POOLS = frozenset({aten.mean.dim, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default})


@dataclass(frozen=True)
class Members:
    """The segments of one block, and what it is by its structure."""

    kind: Kind
    segments: tuple[Segment, ...]


def group(row: tuple[Segment, ...]) -> tuple[Members, ...]:
    """Partition a row of segments, in order; each part has a layer, if the row has one."""
    grouping = _Grouping(row)
    groups = _with_layers(row, grouping.groups())
    return tuple(
        Members(grouping.kind(found), tuple(row[index] for index in found.members)) for found in groups
    )


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
