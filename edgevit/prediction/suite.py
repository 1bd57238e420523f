"""A machine measured: operators of the reference models in each runtime, its memory, a link."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.prediction.attribution import Run
from edgevit.prediction.measuring import Measured, Place, machine_of, time_operators
from edgevit.prediction.operations import RUNTIMES
from edgevit.prediction.reference import Reference, pace_of, references
from edgevit.profiling.addresses import Address, Remote, address_of
from edgevit.profiling.latency import InterruptedProfileError
from edgevit.profiling.links import link_speed
from edgevit.progress import track

INTERRUPTED = "interrupted"


class PartialSuiteError(EdgevitError):
    """A machine could not be measured to the end; what was measured is kept."""

    exit_code = 1


@dataclass
class Suite:
    """All that was measured so far.

    Attributes:
        machine: what the device says of itself.
        threads: of the runtimes.
        measured: artefacts with what came of them, by runtime.
        links: speeds, by host.
        partial: why there is no more; None where all was measured.
    """

    machine: dict[str, Any]
    threads: int
    measured: dict[str, list[tuple[Reference, Measured]]] = field(default_factory=lambda: defaultdict(list))
    links: dict[str, float] = field(default_factory=dict)
    partial: str | None = None

    @property
    def runtimes(self) -> tuple[str, ...]:
        """In which anything was measured."""
        return tuple(self.measured)

    def release(self, runtime: str) -> str:
        """The version of a runtime."""
        return self.measured[runtime][0][1].runtime.split()[-1]

    def pace_us(self, runtime: str) -> float:
        """Microseconds of what took turns with everything, over all of the suite."""
        return statistics.median(found.pace_us for _, found in self.measured[runtime])

    def runs(self, runtime: str) -> list[Run]:
        """What was timed, as if the device had been as fast all the time.

        Where it was slower, be it by its clock, its heat or other programs, so was what took turns with it.
        """
        usual = self.pace_us(runtime)
        return [
            _at_pace(reference, found, usual / found.pace_us) for reference, found in self.measured[runtime]
        ]


def _at_pace(reference: Reference, found: Measured, scale: float) -> Run:
    times = tuple((operation, scale * us) for operation, us in found.times)
    whole = scale * found.whole_us
    return Run(reference.model, reference.family, reference.precision, whole, found.operations, times)


def measure(
    *,
    device: str = "local",
    formats: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    threads: int | None = None,
    link: str | None = None,
    remote: Remote | None = None,
) -> Suite:
    """Measure a machine.

    Args:
        device: ``"local"`` or ``"ssh://user@host[:port]"``.
        formats: whose runtimes are measured: "onnx", "tflite"; None for those that are installed.
        models: of the suite; None for all.
        threads: of the runtimes; None uses every core.
        link: another host, ``ssh://user@host``, to which the speed of the line from here is measured.
        remote: how a device is used that is not this machine.

    Raises:
        EdgevitError: when an option is wrong, or the machine cannot be measured.
        MissingDependencyError: without a runtime.
        InterruptedProfileError: when it is interrupted before anything was measured.
    """
    remote = remote or Remote()
    chosen = _checked(formats, device, threads)
    wanted = references([f".{name}" for name in chosen], models)
    host = None if link is None else _host(link)
    machine = machine_of(Place(device, threads or 0, remote), RUNTIMES[chosen[0]])
    # Without a number, as many threads as the device has cores.
    place = Place(device, machine["threads"], remote)
    suite = Suite(machine, place.threads)
    try:
        if host is not None:
            suite.links[str(host)] = link_speed(host, remote)
        _measure_all(suite, wanted, place)
    except KeyboardInterrupt:
        suite.partial = INTERRUPTED
    except EdgevitError as error:
        suite.partial = str(error)
        if not suite.measured:
            raise
    if not suite.measured:
        raise InterruptedProfileError("interrupted before anything was measured; there is no profile")
    return suite


def _checked(formats: Sequence[str] | None, device: str, threads: int | None) -> Sequence[str]:
    """The formats that are measured: those asked for, or those that can be."""
    if threads is not None and threads < 1:
        raise EdgevitError(f"--threads {threads}: 1 is the least")
    address = address_of(device)
    if address is not None and address.scheme != "ssh":
        raise EdgevitError(f"--device {device}: the suite measures this machine, or one that ssh reaches")
    if formats is None:
        return [name for name in RUNTIMES if not extras.missing(name)] or list(RUNTIMES)
    for name in formats:
        if name not in RUNTIMES:
            raise EdgevitError(f"--formats: {name!r} is not measured; {closest(name, RUNTIMES)}")
        extras.require(name, f"measuring {RUNTIMES[name]}")
    return formats


def _host(link: str) -> Address:
    address = address_of(link)
    if address is None or address.scheme != "ssh":
        raise EdgevitError(f"--link {link}: give ssh://user@host[:port]")
    return address


def _measure_all(suite: Suite, wanted: Sequence[Reference], place: Place) -> None:
    for reference in track(wanted, f"measuring {place.device}", len(wanted)):
        with tempfile.TemporaryDirectory() as folder:
            pace = pace_of(reference.suffix).unpack(Path(folder), "pace")
            found = time_operators(reference.unpack(Path(folder)), pace, place)
        suite.measured[RUNTIMES[reference.suffix.removeprefix(".")]].append((reference, found))
