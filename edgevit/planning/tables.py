"""What each step of a pipeline costs, from a problem: tables over nodes, for hosts that are alike only once.

A host computes, receives and sends at the same time: in a stream of items the slowest of the three decides.
A line carries every byte that passes it; what is sent from one host to another takes as long as the slower
of their lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgevit.planning.problem import Cut, Host, Medium, Problem, Wire, unknown_energy
from edgevit.planning.routes import Costs, Sums, Tables


@dataclass(frozen=True)
class Kind:
    """Hosts that are alike in all but their names.

    Attributes:
        hosts: of this kind, in the problem's order.
    """

    hosts: tuple[Host, ...]

    @property
    def like(self) -> Host:
        """One of them."""
        return self.hosts[0]


def kinds_of(problem: Problem) -> tuple[Kind, ...]:
    """Hosts that are alike together; one that has a role of its own is like no other."""
    roles = {problem.source, problem.sink, *(pin.host for pin in problem.pins)}
    groups: dict[tuple[object, ...], list[Host]] = {}
    for host in problem.hosts:
        own = host.name if host.name in roles else None
        key = (
            *(own, host.seconds, host.memory_bytes, host.bandwidth, host.latency),
            *(host.joules, host.joules_per_byte, host.conversion, host.medium),
        )
        groups.setdefault(key, []).append(host)
    return tuple(Kind(tuple(hosts)) for hosts in groups.values())


@dataclass(frozen=True)
class Node:
    """A cut, and a way to send what crosses it.

    Attributes:
        place: of the cut, from 0.
        cut: itself.
        wire: how what crosses is sent.
    """

    place: int
    cut: Cut
    wire: Wire

    @property
    def wide_bytes(self) -> float:
        """Bytes before they are narrowed; 0 where nothing is converted."""
        return 0.0 if self.wire is self.cut.wires[0] else self.cut.wires[0].bytes


def nodes_of(problem: Problem) -> tuple[Node, ...]:
    """The nodes in the order of the chain.

    What is asked and what is answered are sent as they are. Of several ways to send what crosses a cut, the
    one of fewest bytes is best where no host says what converting costs; then there is one node.
    """
    cuts = problem.chain.cuts
    priced = any(host.conversion is not None for host in problem.hosts)
    nodes = []
    for place, cut in enumerate(cuts):
        wires = cut.wires if 0 < place < len(cuts) - 1 else cut.wires[:1]
        if not priced:
            wires = (min(wires, key=lambda wire: wire.bytes),)
        nodes += [Node(place, cut, wire) for wire in wires]
    return tuple(nodes)


class StepCosts:
    """Tables of a problem.

    Args:
        problem: what is planned.
        memory: whether memory limits which steps can be taken.
    """

    def __init__(self, problem: Problem, *, memory: bool = True) -> None:
        self.problem = problem
        self.kinds = kinds_of(problem)
        self.nodes = nodes_of(problem)
        self._place = np.array([node.place for node in self.nodes])
        self._bytes = np.array([node.wire.bytes for node in self.nodes])
        self._memory = memory
        self._computing = np.stack([self._computed(kind.like) for kind in self.kinds])

    @property
    def counts(self) -> tuple[int, ...]:
        """Of the hosts of each kind, at most as many as there are segments."""
        most = len(self.problem.chain.segments)
        return tuple(min(len(kind.hosts), most) for kind in self.kinds)

    def throughput(self, medium: Medium | None = None) -> Tables:
        """Seconds by which items follow one another: the slowest of computing, receiving and sending.

        Args:
            medium: the shared one that is looked at, if any.
        """
        peaks = np.stack([self._peaks(place, kind.like) for place, kind in enumerate(self.kinds)])
        sums = None if medium is None else self._load(medium)
        return Tables(self.counts, sums=sums, peaks=np.where(self.allowed, peaks, np.inf))

    def latency(self) -> Tables:
        """Seconds from an item to its answer, with nothing else on the way."""
        stage = self._computing.copy()
        for kind, table in zip(self.kinds, stage, strict=True):
            table[0] += self._transfer(self.problem.source, kind.like, self._bytes[0])
            table[:, -1] += self._transfer(self.problem.sink, kind.like, self._bytes[-1])
        return self._sums_alone(stage, self._moves())

    def energy(self) -> Tables:
        """Joules for one item, of the hosts that take part in it.

        Raises:
            EdgevitError: where a host does not say what it takes.
        """
        stage = np.stack([self._joules(kind.like) for kind in self.kinds])
        for kind, table in zip(self.kinds, stage, strict=True):
            table[0] += self._apart(self.problem.source, kind.like, self._bytes[0])
            table[:, -1] += self._apart(self.problem.sink, kind.like, self._bytes[-1])
        return self._sums_alone(stage, np.zeros((len(self.nodes), *2 * (len(self.kinds),))))

    def lacking(self) -> Tables:
        """Bytes of memory that each step has too many, on the hosts that could take it otherwise."""
        lacking = [np.maximum(self.needed() - kind.like.memory_bytes, 0.0) for kind in self.kinds]
        return self._sums_alone(np.stack(lacking), np.zeros((len(self.nodes), *2 * (len(self.kinds),))))

    def needed(self) -> Costs:
        """(nodes, nodes), bytes of memory that each step takes."""
        segments, cuts = self.problem.chain.segments, self.problem.chain.cuts
        weights = self._between(_running([segment.weight_bytes for segment in segments], np.add))
        peaks = self._between(_running([segment.peak_bytes for segment in segments], np.maximum))
        entering = np.array([cut.entering_bytes for cut in cuts])[self._place]
        leaving = np.array([cut.leaving_bytes for cut in cuts])[self._place]
        needed: Costs = weights + peaks + entering[:, None] + leaving[None]
        return needed

    def _sums_alone(self, stage: Costs, move: Costs) -> Tables:
        return Tables(self.counts, sums=Sums(np.where(self.allowed, stage, np.inf), move))

    @cached_property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """(kinds, nodes, nodes), whether each step can be taken at all."""
        start, end = self._place[:, None], self._place[None]
        allowed: npt.NDArray[np.bool_] = (start < end) & np.isfinite(self._computing)
        needed = self.needed()
        for kind, table in zip(self.kinds, allowed, strict=True):
            if self._memory:
                np.logical_and(table, needed <= kind.like.memory_bytes, out=table)
            for pin in self.problem.pins:
                if pin.host != kind.like.name:
                    np.logical_and(table, (start > pin.last) | (end <= pin.first), out=table)
        return allowed

    def _computed(self, host: Host) -> Costs:
        """(nodes, nodes), of computing, conversions at both ends among it."""
        seconds = self._between(_running(host.seconds, np.add))
        if host.conversion is not None:
            converting = np.array([node.wide_bytes for node in self.nodes]) / host.conversion
            seconds = seconds + converting[:, None] + converting[None]
        return seconds

    def _peaks(self, place: int, host: Host) -> Costs:
        received, sent = self._lines(host)
        peaks: Costs = np.maximum(self._computing[place], np.maximum(received, sent) / host.bandwidth)
        # The lines of hosts with a role carry what they send and want, be they of the pipeline or not.
        peaks[0] = np.maximum(peaks[0], self._busy(self.problem.source, host, self._bytes[0]))
        peaks[:, -1] = np.maximum(peaks[:, -1], self._busy(self.problem.sink, host, self._bytes[-1]))
        return peaks

    def _busy(self, name: str | None, host: Host, size: float) -> float:
        """Seconds for which the line of a host with a role is busy with another."""
        return 0.0 if name is None or name == host.name else size / self.problem.host(name).bandwidth

    def _lines(self, host: Host) -> tuple[Costs, Costs]:
        """(nodes, nodes) twice: bytes that pass the line of a host inwards, and outwards."""
        source, sink = self.problem.source, self.problem.sink
        shape = (len(self.nodes), len(self.nodes))
        received = np.broadcast_to(self._bytes[:, None], shape).copy()
        sent = np.broadcast_to(self._bytes[None], shape).copy()
        received[0] = self._bytes[0] if source not in {None, host.name} else 0.0
        sent[:, -1] = self._bytes[-1] if sink not in {None, host.name} else 0.0
        if source == host.name:  # it sends what is asked to the first, unless it is the first
            sent[1:] += self._bytes[0]
        if sink == host.name:  # it receives the answer from the last
            received[:, :-1] += self._bytes[-1]
        return received, sent

    def _joules(self, host: Host) -> Costs:
        if host.joules is None:
            raise unknown_energy(host.name)
        sent = host.joules_per_byte * (self._bytes[:, None] + self._bytes[None])
        # What is asked and what is answered is seen to by the caller: who sends and receives it depends.
        sent[0] -= host.joules_per_byte * self._bytes[0]
        sent[:, -1] -= host.joules_per_byte * self._bytes[-1]
        joules: Costs = self._between(_running(host.joules, np.add)) + sent
        return joules

    def _apart(self, name: str | None, host: Host, size: float) -> float:
        """Joules of bringing something from or to a host with a role; 0 where it is there already."""
        if name is None or name == host.name:
            return 0.0
        return float(size * (host.joules_per_byte + self.problem.host(name).joules_per_byte))

    def _transfer(self, name: str | None, host: Host, size: float) -> float:
        """Seconds of the same."""
        if name is None or name == host.name:
            return 0.0
        return float(transfer_seconds(self.problem, self.problem.host(name), host, size))

    def _moves(self) -> Costs:
        """(nodes, kinds, kinds), seconds from one host to another."""
        hosts = [kind.like for kind in self.kinds]
        pairs = [[transfer_seconds(self.problem, a, b, self._bytes) for b in hosts] for a in hosts]
        return np.array(pairs).transpose(2, 0, 1)

    def _load(self, medium: Medium) -> Sums:
        """Seconds for which each step and each move occupies a medium."""
        on = np.array([kind.like.medium == medium.name for kind in self.kinds])
        busy = self._bytes / medium.bandwidth
        move = busy[:, None, None] * (on[:, None] | on[None])
        stage = np.zeros((len(self.kinds), len(self.nodes), len(self.nodes)))
        for place, kind in enumerate(self.kinds):
            stage[place, 0] += busy[0] * self._passes(self.problem.source, kind.like, medium)
            stage[place, :, -1] += busy[-1] * self._passes(self.problem.sink, kind.like, medium)
        return Sums(np.where(self.allowed, stage, np.inf), move)

    def _passes(self, name: str | None, host: Host, medium: Medium) -> bool:
        if name is None or name == host.name:
            return False
        return medium.name in {host.medium, self.problem.host(name).medium}

    def _between(self, of_segments: Costs) -> Costs:
        """A table over segments as one over nodes."""
        between: Costs = of_segments[np.ix_(self._place, self._place)]
        return between


def _running(values: Sequence[float], accumulate: np.ufunc) -> Costs:
    """(segments + 1, segments + 1), what the segments between two cuts come to; 0 where there are none."""
    count = len(values)
    table = np.zeros((count + 1, count + 1))
    # Each row from where its step starts, as one would by hand: differences of sums would round.
    table[:-1, 1:] = accumulate.accumulate(np.triu(np.broadcast_to(values, (count, count))), axis=1)
    return table


def transfer_seconds(problem: Problem, sender: Host, receiver: Host, size: float | Costs) -> Costs:
    """Seconds in which bytes come from one host to another, with nothing else on the way."""
    shared = {medium.name: medium.bandwidth for medium in problem.media}
    lines = [sender.bandwidth, receiver.bandwidth]
    lines += [shared[host.medium] for host in (sender, receiver) if host.medium is not None]
    seconds: Costs = np.asarray(size) / min(lines) + sender.latency + receiver.latency
    return seconds
