"""An artefact on a device, timed operator by operator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.prediction.attribution import Piece
from edgevit.prediction.operations import in_one_model
from edgevit.profiling.addresses import Address, Remote, address_of
from edgevit.profiling.local import local_run
from edgevit.profiling.measurements import Shape
from edgevit.profiling.readings import Readings
from edgevit.profiling.running import Run as Process
from edgevit.profiling.ssh import explain_problem, ssh_run


@dataclass(frozen=True)
class Place:
    """Where is measured, and how.

    Attributes:
        device: "local" or "ssh://user@host[:port]".
        threads: of the runtime.
        seconds: on each artefact in pieces.
        remote: how a device is used that is not this machine.
    """

    device: str
    threads: int
    seconds: float
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
        pieces: of it, in order.
    """

    runtime: str
    whole_us: float
    pace_us: float
    pieces: tuple[Piece, ...]


def time_operators(path: Path, pace: Path, place: Place) -> Measured:
    """Time an artefact whole and in operators.

    Args:
        path: the artefact, ``.onnx`` or ``.tflite``.
        pace: one of the same format that takes turns with it.
        place: where.

    Raises:
        EdgevitError: when it cannot be run there.
    """
    return {".onnx": _time_onnx, ".tflite": _time_litert}[path.suffix](path, pace, place)


def _time_onnx(path: Path, pace: Path, place: Place) -> Measured:
    from edgevit.prediction.onnx_operations import OnnxOperators

    said = _ask(place, "onnxruntime", [path, pace])
    operators = OnnxOperators(path)
    operations = in_one_model(
        [
            operators.operation(name, kind, *map(_shapes, ends))
            for (name, kind, *_), ends in zip(said["operators"], said["shapes"], strict=True)
        ]
    )
    pieces = tuple(
        Piece((operation,), us) for operation, (*_, us) in zip(operations, said["operators"], strict=True)
    )
    return Measured(said["runtime"], said["whole_us"], said["pace_us"], pieces)


def _shapes(said: Sequence[Any]) -> list[Shape]:
    return [(kind, tuple(sizes)) for kind, sizes in said]


def _time_litert(path: Path, pace: Path, place: Place) -> Measured:
    from edgevit.prediction.litert_operations import read_operations
    from edgevit.prediction.pieces import cut

    operations, pieces = read_operations(path), cut(path)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.tflite" for number in range(len(pieces))]
        for file, piece in zip(files, pieces, strict=True):
            file.write_bytes(piece.content)
        said = _ask(place, "litert", [path, pace, *files], seconds=place.seconds)
    timed = tuple(
        Piece(tuple(operations[piece.first : piece.last + 1]), us, piece.entering)
        for piece, us in zip(pieces, said["us"], strict=True)
    )
    return Measured(said["runtime"], said["whole_us"], said["pace_us"], timed)


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
        files: an artefact, its pace, and its pieces; none where it is asked something else.
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
    artefact, pace, *pieces = names or ["", ""]
    wanted = {
        "runtime": runtime,
        "delegate": None,
        "threads": place.threads,
        "cpus": None,
        "artefact": artefact,
        "pace": pace,
        "pieces": pieces,
        **options,
    }
    if place.address is None:
        return local_run(wanted)
    return ssh_run(place.address, place.remote, [(path.name, path) for path in files], wanted)
