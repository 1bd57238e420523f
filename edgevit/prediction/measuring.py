"""An artefact on a device, timed operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.prediction.operations import RUNTIMES, Operation, in_one_model
from edgevit.profiling.addresses import Address, Remote, address_of
from edgevit.profiling.local import local_run
from edgevit.profiling.measurements import Shape
from edgevit.profiling.probe.litert_library import XNNPACK
from edgevit.profiling.readings import Readings
from edgevit.profiling.running import Run as Process
from edgevit.profiling.ssh import explain_problem, ssh_run


@dataclass(frozen=True)
class Place:
    """Where is measured, and how.

    Attributes:
        device: "local" or "ssh://user@host[:port]".
        threads: of the runtime.
        remote: how a device is used that is not this machine.
    """

    device: str
    threads: int
    remote: Remote

    @property
    def address(self) -> Address | None:
        """Of a device that is not this machine."""
        return address_of(self.device)


@dataclass(frozen=True)
class Measured:
    """What came of one artefact.

    Attributes:
        runtime: with its version.
        whole_us: microseconds of a run.
        pace_us: of a run of the artefact that took turns with it: how fast the device was just then.
        operations: of it, in order.
        times: microseconds of those that a time can be told of; with the others they add up to the whole.
    """

    runtime: str
    whole_us: float
    pace_us: float
    operations: tuple[Operation, ...]
    times: tuple[tuple[Operation, float], ...]


def time_operators(path: Path, pace: Path, place: Place) -> Measured:
    """Time an artefact whole and by operators.

    Args:
        path: the artefact, ``.onnx`` or ``.tflite``.
        pace: one of the same format that takes turns with it.
        place: where.

    Raises:
        EdgevitError: when it cannot be run there, or what runs it does not time operators.
    """
    said = _ask(place, RUNTIMES[path.suffix.removeprefix(".")], [path, pace])
    if "operators" not in said:
        raise EdgevitError(f"{place.device} does not time operators: {said['reason']}")
    times = [us for *_, us in said["operators"]]
    # What lies between operators is spread over them.
    scale = said["whole_us"] / sum(times)
    operations, belongs = {".onnx": _of_onnx, ".tflite": _of_tflite}[path.suffix](path, said)
    found: dict[int, float] = {}
    for at, us in zip(belongs, times, strict=True):
        if at is not None:
            found[at] = found.get(at, 0.0) + scale * us
    known = tuple((operation, us) for number, us in found.items() if (operation := operations[number]))
    every = tuple(operation for operation in operations if operation)
    return Measured(said["runtime"], said["whole_us"], said["pace_us"], every, known)


def _of_onnx(path: Path, said: dict[str, Any]) -> tuple[Sequence[Operation | None], Sequence[int | None]]:
    """Operations, and to which of them each belongs that ran: ONNX Runtime says shapes of what it runs."""
    from edgevit.prediction.onnx_operations import OnnxOperators

    operators = OnnxOperators(path)
    operations = in_one_model(
        [
            operators.operation(name, kind, *map(_shapes, ends))
            for (name, kind, *_), ends in zip(said["operators"], said["shapes"], strict=True)
        ]
    )
    return operations, range(len(operations))


def _of_tflite(path: Path, said: dict[str, Any]) -> tuple[Sequence[Operation | None], Sequence[int | None]]:
    """Operations, and to which of them each belongs that ran: XNNPACK says no more than a kind."""
    from edgevit.export.placement.read_tflite import read_tflite
    from edgevit.prediction.alignment import places_of
    from edgevit.prediction.litert_operations import operations_by_place

    kinds = [operator.kind for operator in read_tflite(path)]
    ran = [(None if unit == XNNPACK else int(name), kind) for name, kind, unit, _ in said["operators"]]
    return operations_by_place(path), places_of(kinds, ran, said["parts"])


def _shapes(said: Sequence[Any]) -> list[Shape]:
    return [(kind, tuple(sizes)) for kind, sizes in said]


def machine_of(place: Place, runtime: str) -> dict[str, Any]:
    """What a device says of itself, and ``bytes_per_second`` of its memory."""
    return _ask(place, runtime, [], bandwidth=True)


class _Heard(Readings):
    """The facts that a probe tells of itself, whichever they are."""

    def __init__(self) -> None:
        super().__init__()
        for event in ("timed", "bandwidth"):
            self._takers[event] = self._facts.update

    @property
    def facts(self) -> dict[str, Any]:
        """All that was told."""
        return self._facts


def _ask(place: Place, runtime: str, files: Sequence[Path], **options: Any) -> dict[str, Any]:
    """Have the probe do something, and give what it tells.

    Args:
        place: where.
        runtime: in which.
        files: an artefact and its pace; none where it is asked something else.
        options: what else it is told.
    """
    heard = _Heard()
    with _probe(place, runtime, files, options) as run:
        reason = run.follow(heard)
    if place.address is not None and heard.problem is not None:
        raise explain_problem(place.address, place.remote, heard.problem)
    if reason is not None:
        what = files[0].name if files else "the machine"
        raise EdgevitError(f"{what} could not be measured on {place.device}: {reason}")
    return heard.facts


def _probe(
    place: Place, runtime: str, files: Sequence[Path], options: dict[str, Any]
) -> AbstractContextManager[Process]:
    # Where they are, or are going to be.
    names = [str(path.resolve()) if place.address is None else path.name for path in files]
    artefact, pace = names or ["", ""]
    wanted = {
        "runtime": runtime,
        "delegate": None,
        "threads": place.threads,
        "cpus": None,
        "artefact": artefact,
        "pace": pace,
        **options,
    }
    if place.address is None:
        return local_run(wanted)
    return ssh_run(place.address, place.remote, [(path.name, path) for path in files], wanted)
