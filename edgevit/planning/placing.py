"""Parts on hosts as an integer program, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.planning.problem import Ensemble, Host, Objective, unknown_energy

# How a binary that the solver gives is read.
_HALF = 0.5

# A variable: whether a part is on a host, ("on", part, host); whether a host has any, ("has", host);
# bytes that it lacks, ("lacks", host); seconds of a phase, ("asking",), ("computing",), ("answering",);
# and between items, ("bottleneck",).
_Variable = tuple[Any, ...]
_Row = dict[_Variable, float]


class PlacementProgram:
    """Which part goes where, as an integer program: rows of variables between two values, and a goal.

    Args:
        ensemble: what is placed.
        roomy: whether hosts may lack bytes of memory.
    """

    def __init__(self, ensemble: Ensemble, *, roomy: bool = False) -> None:
        self._ensemble = ensemble
        self._problem = ensemble.problem
        self._parts = range(len(ensemble.problem.chain.segments))
        self._rows: list[tuple[_Row, float, float]] = []
        self._goal: _Row = {}
        self._fixed = 0.0
        self._place()
        for host in self._problem.hosts:
            self._remember(host, roomy=roomy)

    def minimise(self, objective: Objective) -> None:
        """Set what is to be low."""
        if objective == "energy":
            self._goal = self._joules()
            return
        for host in self._problem.hosts:
            self._at_most(self._seconds(host), "computing" if objective == "latency" else "bottleneck")
        if objective == "throughput":
            for line in self._lines([*self._asked(), *self._answered()]).values():
                self._at_most(line, "bottleneck")
            self._goal = {("bottleneck",): 1.0}
            self._rows.append(({("bottleneck",): 1.0}, self._ensemble.fusion_seconds, math.inf))
            return
        self._add_phase(self._asked(), "asking")
        self._add_phase(self._answered(), "answering")
        self._goal = {("asking",): 1.0, ("computing",): 1.0, ("answering",): 1.0}
        self._fixed = self._ensemble.fusion_seconds

    def minimise_lacking(self) -> None:
        """Set as what is to be low the bytes that are lacking, where there may be any."""
        self._goal = {
            ("lacks", host.name): 1.0 for host in self._problem.hosts if math.isfinite(host.memory_bytes)
        }

    def forbid_together(self, parts: Sequence[int], host: Host) -> None:
        """Keep parts from being on a host all at once."""
        self._rows.append(({("on", part, host.name): 1.0 for part in parts}, -math.inf, len(parts) - 1.0))

    def solved(self, seconds: float) -> tuple[tuple[str, ...], float] | None:
        """The host of each part, and what no placement can cost less than; None where there is none."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        names = {name: place for place, name in enumerate(self._variables())}
        entries = [
            (row, names[name], value)
            for row, (values, _, _) in enumerate(self._rows)
            for name, value in values.items()
        ]
        rows, columns, values = zip(*entries, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self._rows), len(names))).tocsr()
        binary = np.array([name[0] in {"on", "has"} for name in names])
        found = milp(
            [self._goal.get(name, 0.0) for name in names],
            integrality=binary,
            bounds=Bounds(0.0, np.where(binary, [self._most(name) for name in names], np.inf)),
            constraints=LinearConstraint(
                matrix, [low for _, low, _ in self._rows], [high for _, _, high in self._rows]
            ),
            options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )
        if found.x is None:
            if found.status == 2:
                return None
            raise EdgevitError(
                f"no placement of the sub-models was found in {seconds:g} seconds; place fewer"
            )
        chosen = [
            next(h.name for h in self._problem.hosts if found.x[names["on", part, h.name]] > _HALF)
            for part in self._parts
        ]
        return tuple(chosen), float(found.mip_dual_bound) + self._fixed

    def _variables(self) -> list[_Variable]:
        seen: dict[_Variable, None] = dict.fromkeys(self._goal)
        for row, _, _ in self._rows:
            seen |= dict.fromkeys(row)
        return list(seen)

    def _most(self, name: _Variable) -> float:
        runs = name[0] != "on" or math.isfinite(self._problem.host(name[2]).seconds[name[1]])
        return 1.0 if runs else 0.0

    def _place(self) -> None:
        """Every part is on one host; a host that has one has any."""
        hosts = self._problem.hosts
        for part in self._parts:
            self._rows.append(({("on", part, host.name): 1.0 for host in hosts}, 1.0, 1.0))
            for host in hosts:
                self._rows.append(({("on", part, host.name): 1.0, ("has", host.name): -1.0}, -math.inf, 0.0))

    def _remember(self, host: Host, *, roomy: bool) -> None:
        """What a host holds: all weights, and beside them the activations of any one part."""
        if math.isinf(host.memory_bytes):
            return
        segments = self._problem.chain.segments
        scale = max(host.memory_bytes, 1.0)
        weights: _Row = {("on", p, host.name): segments[p].weight_bytes / scale for p in self._parts}
        for part in self._parts:
            row = dict(weights)
            row["on", part, host.name] += segments[part].peak_bytes / scale
            if roomy:
                row["lacks", host.name] = -1.0 / scale
            self._rows.append((row, -math.inf, host.memory_bytes / scale))

    def _seconds(self, host: Host) -> _Row:
        return {
            ("on", part, host.name): host.seconds[part]
            for part in self._parts
            if math.isfinite(host.seconds[part])
        }

    def _at_most(self, row: Mapping[_Variable, float], variable: str) -> None:
        self._rows.append(({**row, (variable,): -1.0}, -math.inf, 0.0))

    def _asked(self) -> list[tuple[Host, Host, _Row]]:
        """Sender, receiver, and bytes as a sum of variables, of each transfer that there may be."""
        if self._problem.source is None:
            return []
        source = self._problem.host(self._problem.source)
        return [
            (source, host, {("has", host.name): self._ensemble.asked_bytes})
            for host in self._problem.hosts
            if host.name != source.name
        ]

    def _answered(self) -> list[tuple[Host, Host, _Row]]:
        if self._problem.sink is None:
            return []
        sink = self._problem.host(self._problem.sink)
        return [
            (host, sink, {("on", p, host.name): self._ensemble.sent_bytes[p] for p in self._parts})
            for host in self._problem.hosts
            if host.name != sink.name
        ]

    def _lines(self, transfers: Sequence[tuple[Host, Host, _Row]]) -> dict[tuple[str, str], _Row]:
        """Seconds for which each line and medium is busy, as sums of variables."""
        shared = {medium.name: medium.bandwidth for medium in self._problem.media}
        busy: dict[tuple[str, str], _Row] = {}
        for sender, receiver, row in transfers:
            lines = [("out", sender.name, sender.bandwidth), ("in", receiver.name, receiver.bandwidth)]
            media = {host.medium for host in (sender, receiver) if host.medium is not None}
            lines += [("shared", name, shared[name]) for name in sorted(media)]
            for what, name, bandwidth in lines:
                sums = busy.setdefault((what, name), {})
                for variable, size in row.items():
                    sums[variable] = sums.get(variable, 0.0) + size / bandwidth
        return busy

    def _add_phase(self, transfers: Sequence[tuple[Host, Host, _Row]], variable: str) -> None:
        """Until everything has arrived: the busiest line, and the latest latency."""
        lines = list(self._lines(transfers).values()) or [{}]
        for sender, receiver, _ in transfers:
            host = receiver if variable == "asking" else sender
            self._at_most({("has", host.name): sender.latency + receiver.latency}, f"{variable} late")
        for line in lines:
            self._rows.append(({**line, (f"{variable} late",): 1.0, (variable,): -1.0}, -math.inf, 0.0))

    def _joules(self) -> _Row:
        row: _Row = {}
        for host in self._problem.hosts:
            if host.joules is None:
                raise unknown_energy(host.name)
            for part in self._parts:
                row["on", part, host.name] = host.joules[part]
        for sender, receiver, sizes in [*self._asked(), *self._answered()]:
            for variable, size in sizes.items():
                both = sender.joules_per_byte + receiver.joules_per_byte
                row[variable] = row.get(variable, 0.0) + size * both
        return row
