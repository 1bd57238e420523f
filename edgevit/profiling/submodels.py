"""What the choices of a nested Program cost in time on a device.

Each choice is made alone in a whole artefact, which is timed in turns with the parent's, so that everything a
runtime fuses, or fails to fuse, is in the figure. Where several places of a network are alike, as blocks of a
Vision Transformer are, it is made in all of them at once, and each saves its share: their sum stands clear of
the noise where one alone would not.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.export.formats import FORMATS, ExportChoices
from edgevit.graph.program import Program
from edgevit.profiling.addresses import LOCAL, Remote
from edgevit.profiling.local import check_profilable
from edgevit.profiling.measuring import profile
from edgevit.profiling.relative import TIMED
from edgevit.profiling.turns import medians_in_turns
from edgevit.progress import track
from edgevit.quant.operators import weight_of
from edgevit.submodels.costing import Counted
from edgevit.submodels.extraction import extract
from edgevit.submodels.nesting import Widths
from edgevit.submodels.places import Option, Place, places_of

_NANOSECONDS = 1_000_000
# Of timed runs, where a device cannot run two artefacts in turns: each is timed once for every other.
_SECONDS = 1.0


@dataclass(frozen=True)
class Taken:
    """How long an artefact takes by itself.

    Attributes:
        p50_ms: the median of its runs.
        interval_ms: between which that lies for nine models of ten, where it is predicted; None where it was
            measured.
        warning: what else must be known of it; None for nothing.
    """

    p50_ms: float
    interval_ms: tuple[float, float] | None = None
    warning: str | None = None


class Clock(Protocol):
    """Says how long artefacts take on a device, on one thread."""

    @property
    def device(self) -> str:
        """What it is called."""

    def check(self, to: str) -> None:
        """Refuse a format whose artefacts it cannot say that of.

        Raises:
            EdgevitError: naming those that it can.
            MissingDependencyError: when a runtime is not installed.
        """

    def relative(self, path: Path, plain: Path) -> float:
        """Time that an artefact takes over that of another."""

    def alone(self, path: Path) -> Taken:
        """Time that an artefact takes."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock that runs artefacts.

    Attributes:
        device: as `edgevit.profiling.profile` takes it.
        remote: how a device is used that is not this machine.
    """

    device: str = LOCAL
    remote: Remote | None = None

    def check(self, to: str) -> None:
        """As `check_timed`."""
        check_timed(to)

    def relative(self, path: Path, plain: Path) -> float:
        """In turns on this machine; on a device one after the other."""
        if self.device == LOCAL:
            whole, taken = medians_in_turns([plain, path])
        else:
            whole, taken = (self.alone(one, _SECONDS).p50_ms for one in (plain, path))
        return taken / whole

    def alone(self, path: Path, seconds: float = 3.0) -> Taken:
        """In a fresh process."""
        found = profile(
            path, device=self.device, threads=1, seconds=seconds, operators=False, remote=self.remote
        )
        return Taken(found.percentile(50), warning=found.warning)


@dataclass(frozen=True)
class LatencyTable:
    """Latency of the submodels of one nested Program, as a sum over its places; itself a `Cost`.

    Attributes:
        format: in whose runtime, on one thread.
        clock: that said so.
        whole_ms: p50 of the parent's artefact by itself.
        saved: share of that which a choice saves when it is made alone, for each place and option but the
            whole; below 0 where it takes longer, as floats among integers may.
    """

    format: str
    clock: Clock
    whole_ms: float
    saved: Mapping[tuple[Place, Option], float]

    def __call__(self, widths: Widths, kept_float: Collection[str] = (), /) -> int:
        """Nanoseconds of a submodel, as far as its choices do not meet in time."""
        floats = frozenset(kept_float)
        share = 1 - sum(
            saved.get(place.option_in(widths, floats), 0.0) for place, saved in self._of_places.items()
        )
        return max(0, round(share * self.whole_ms * _NANOSECONDS))

    @functools.cached_property
    def _of_places(self) -> dict[Place, dict[Option, float]]:
        """What the options of each place save."""
        found: dict[Place, dict[Option, float]] = {}
        for (place, option), share in self.saved.items():
            found.setdefault(place, {})[option] = share
        return found


def check_timed(to: str) -> None:
    """Refuse a format whose artefacts cannot be timed on this machine.

    Raises:
        EdgevitError: when no runtime here takes it.
        MissingDependencyError: when its runtime is not installed.
    """
    if to not in TIMED:
        raise EdgevitError(f"--to: {to!r} cannot be timed on this machine; {closest(to, TIMED)}")
    extras.require(check_profilable(FORMATS[to].file), "measuring latency")


#: What becomes of a submodel before it is exported, some of its layers left float.
Made = Callable[[Program, Collection[str]], Program]


def measure_choices(
    parent: Program, to: str, clock: Clock, *, made: Made | None = None, layers: Collection[str] = ()
) -> LatencyTable:
    """Time every choice of a nested Program on a device, on one thread.

    Args:
        parent: a nested Program.
        to: the format whose runtime counts: "onnx" or "tflite".
        clock: that times artefacts.
        made: what becomes of each submodel before it is timed, as of one that is to be quantized; nothing
            where it is None.
        layers: that are integers then, or are left float.

    Raises:
        EdgevitError: as `Clock.check`; when the program is not nested, or the device cannot be used.
    """
    clock.check(to)
    made = made or _as_it_is
    places = places_of(parent, layers)
    groups = alike(places, [Counted(parent, "macs"), Counted(parent, "parameters")], _shapes(parent, layers))
    tried = [(group, option) for group in groups for option in group[0].options if option != group[0].whole]
    saved: dict[tuple[Place, Option], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = _written(made(parent, ()), to, Path(folder) / "whole")
        for number, (group, option) in enumerate(track(tried, f"measuring choices in {to}", len(tried))):
            widths = {name: form for place in group for name, form in place.named(option).items()}
            kept_float = [layer for place in group for layer in place.kept_float(option)]
            small = made(extract(parent, widths), kept_float)
            path = _written(small, to, Path(folder) / str(number))
            share = clock.relative(path, plain)
            path.unlink()
            saved |= dict.fromkeys(((place, option) for place in group), (1 - share) / len(group))
        whole_ms = clock.alone(plain).p50_ms
    return LatencyTable(to, clock, whole_ms, saved)


def _shapes(parent: Program, layers: Collection[str]) -> dict[str, object]:
    """Of layers, what says how long each takes: the shapes of its weight and of what it gives."""
    return {
        node.name: (node.target, str(weight_of(node).meta["val"].shape), str(node.meta["val"].shape))
        for node in parent.graph.nodes
        if node.name in layers
    }


def _as_it_is(program: Program, _kept_float: Collection[str]) -> Program:
    return program


def time_of(program: Program, to: str, clock: Clock) -> Taken:
    """The latency of a program's artefact by itself, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        return clock.alone(_written(program, to, Path(folder) / "program"))


def alike(
    places: Sequence[Place],
    costs: Sequence[Callable[[Widths], int]],
    shapes: Mapping[str, object] | None = None,
) -> list[list[Place]]:
    """Places of the same options, each of which saves the same in all of them.

    Args:
        places: of one nested Program.
        costs: what is compared.
        shapes: of the layers that places have, which are compared as well.
    """
    shapes = shapes or {}
    groups: dict[tuple[object, ...], list[Place]] = {}
    for place in places:
        kind = tuple(cost(place.named(option)) for cost in costs for option in place.options)
        layers = tuple(shapes[layer] for layer in place.layers)
        groups.setdefault((place.options, kind, layers), []).append(place)
    return list(groups.values())


def _written(program: Program, to: str, folder: Path) -> Path:
    path = folder / FORMATS[to].file
    folder.mkdir()
    FORMATS[to].export(program, path, ExportChoices())
    return path
