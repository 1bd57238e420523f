"""What a probe says, line by line, as the profile that it amounts to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgevit.profiling.blocks import block_names
from edgevit.profiling.latency import LatencyProfile
from edgevit.profiling.measurements import (
    Conditions,
    Energy,
    OperatorTable,
    OperatorTime,
    Second,
    Shape,
    Sustained,
)
from edgevit.profiling.placing import placed

_OF_MACHINE = ("threads", "machine", "system", "python", "cores", "board", "processor")
_OF_MODEL = ("load_ms", "runtime", "requested")


class Readings:
    """Everything that has been said so far.

    Attributes:
        ended: whether the probe came to its end.
        refused: its reason for not going on.
        problem: what a device lacks to run it at all (`edgevit.profiling.receiver`).
        runs: timed so far.
    """

    def __init__(self) -> None:
        self.ended = False
        self.refused: str | None = None
        self.problem: dict[str, Any] | None = None
        self._facts: dict[str, Any] = {}
        self._warm_up: list[float] = []
        self._samples: list[float] = []
        self._seconds: list[Second] = []
        self._operators: dict[str, Any] | None = None
        self._takers: dict[str, Callable[[dict[str, Any]], None]] = {
            "machine": self._facts.update,
            "loaded": self._facts.update,
            "measured": self._facts.update,
            "first": lambda said: self._facts.update(first_ms=said["ms"][0]),
            "warm_up": lambda said: self._warm_up.extend(said["ms"]),
            "samples": lambda said: self._samples.extend(said["ms"]),
            "second": lambda said: self._seconds.append(_second(said)),
            "operators": self._take_operators,
            "refused": self._take_refusal,
            "problem": self._take_problem,
            "end": self._take_end,
        }

    def take(self, line: str) -> None:
        """One line; what is no event is a login shell's greeting."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        if isinstance(said, dict) and said.get("event") in self._takers:
            self._takers[said.pop("event")](said)

    @property
    def runs(self) -> int:
        """Timed runs so far."""
        return len(self._samples)

    def profile(self, artefact: Path, device: str, partial: str | None = None) -> LatencyProfile:
        """The profile, which needs one timed run at least."""
        facts = self._facts
        energy = facts.get("energy") or {}
        affinity = facts["affinity"]
        units = self._units()
        return LatencyProfile(
            artefact=str(artefact),
            device=device,
            input_shape=tuple(facts["input_shape"]),
            first_ms=facts["first_ms"],
            warm_up_ms=tuple(self._warm_up),
            samples_ms=tuple(self._samples),
            peak_memory_mb=facts["peak_memory_mb"],
            working_set_mb=facts["working_set_mb"],
            affinity=None if affinity is None else tuple(affinity),
            before=_conditions(facts.get("before")),
            after=_conditions(facts.get("after")),
            energy=Energy(**energy) if "joules" in energy else None,
            energy_reason=energy.get("reason"),
            placed=placed(artefact, facts["runtime"], facts["requested"], units),
            # What took most of it; a provider that is there may take nothing.
            delegate=max(units, key=lambda unit: sum(units[unit].values())) if units else facts["delegate"],
            operators=self._table(artefact),
            operators_reason=(self._operators or {}).get("reason"),
            sustained=Sustained(tuple(self._seconds)) if self._seconds else None,
            partial=partial,
            **{name: facts[name] for name in (*_OF_MACHINE, *_OF_MODEL)},
        )

    def _take_operators(self, said: dict[str, Any]) -> None:
        self._operators = said

    def _take_refusal(self, said: dict[str, Any]) -> None:
        self.refused = said["reason"]

    def _take_problem(self, said: dict[str, Any]) -> None:
        self.problem = said

    def _take_end(self, said: dict[str, Any]) -> None:  # noqa: ARG002 - takers are called alike
        self.ended = True

    def _units(self) -> dict[str, dict[str, int]] | None:
        """Operators by kind under what ran them: from the profiler where only it says."""
        told: dict[str, dict[str, int]] | None = self._facts["placed"]
        if told is not None or not self._operators or "operators" not in self._operators:
            return told
        units: dict[str, dict[str, int]] = {}
        for _, kind, unit, _ in self._operators["operators"]:
            kinds = units.setdefault(unit, {})
            kinds[kind] = kinds.get(kind, 0) + 1
        return units

    def _table(self, artefact: Path) -> OperatorTable | None:
        if not self._operators or "operators" not in self._operators:
            return None
        rows = self._operators["operators"]
        blocks = block_names(artefact, [name for name, *_ in rows])
        shapes = self._operators.get("shapes") or [((), ())] * len(rows)
        times = [
            OperatorTime(name, kind, unit, microseconds / 1e3, block, *map(_shapes, ends))
            for (name, kind, unit, microseconds), block, ends in zip(rows, blocks, shapes, strict=True)
        ]
        whole = self._operators["whole_us"]
        return OperatorTable(tuple(times), self._operators["cost_us"], None if whole is None else whole / 1e3)


def _shapes(said: Sequence[Any]) -> tuple[Shape, ...]:
    return tuple((kind, tuple(sizes)) for kind, sizes in said)


def _conditions(said: dict[str, Any] | None) -> Conditions | None:
    if said is None:
        return None
    lists = {name: tuple(said[name]) if said[name] else None for name in ("mhz", "governors")}
    return Conditions(said["temperatures_c"], lists["mhz"], lists["governors"])


def _second(said: dict[str, Any]) -> Second:
    state = Conditions(said["temperatures_c"], said["mhz"], None)
    figures = {name: said[name] for name in ("at", "runs", "busy_ms", "p50_ms", "max_ms")}
    return Second(**figures, temperature_c=state.hottest_c, mhz=state.mean_mhz)
