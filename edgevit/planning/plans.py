"""Plans of models on clusters: of a Program, of a class-wise split, of what PipeEdge's files describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError, closest
from edgevit.planning import measured
from edgevit.planning.cluster import Cluster, read_cluster
from edgevit.planning.modes import MODES, Mode, Work
from edgevit.planning.pipeedge import BATCH, read_pipeedge
from edgevit.planning.plan_document import Artefacts, document
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.planner import make_plan
from edgevit.planning.problem import OBJECTIVES, WIRE_BYTES, Ensemble, Objective, Problem
from edgevit.planning.run_file import RunFile
from edgevit.planning.timings import Timings, problem_of, read_timings
from edgevit.profiles.documents import Located
from edgevit.profiles.schema import Format

if TYPE_CHECKING:
    from edgevit.graph.program import Program
    from edgevit.pruning.split import Manifest


@dataclass(frozen=True)
class PlanOptions:
    """What may be said about a plan.

    Attributes:
        objective: what is to be low: "latency", "throughput" (seconds between answers) or "energy".
        max_memory: bytes that no device may exceed.
        top: how many plans are given, the best and its alternatives.
        wires: precisions in which activations may be sent; "fp32" is as they are.
        mode: the only mode that may be chosen; None for the best of all.
        costs: table of measured times; see `edgevit.planning.timings`.
        from_run: run file whose measured times and lines stand in place of those that were planned by; see
            `edgevit.planning.measured`.
    """

    objective: Objective = "throughput"
    max_memory: float = math.inf
    top: int = 3
    wires: tuple[str, ...] = ("fp32",)
    mode: Mode | None = None
    costs: Path | None = None
    from_run: Path | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise EdgevitError(f"objective: {self.objective!r}; {closest(self.objective, OBJECTIVES)}")
        if self.mode not in {None, *MODES}:
            raise EdgevitError(f"mode: {self.mode!r}; {closest(str(self.mode), MODES)}")
        if self.top < 1:
            raise EdgevitError(f"top: {self.top}; at least one plan is needed")
        for wire in self.wires:
            if wire not in WIRE_BYTES:
                raise EdgevitError(f"wire: {wire!r}; {closest(wire, WIRE_BYTES)}")

    @property
    def modes(self) -> Sequence[Mode]:
        """The modes that may be chosen."""
        return MODES if self.mode is None else (self.mode,)


DEFAULT = PlanOptions()


@dataclass(frozen=True)
class _Drafted:
    """Work on a cluster, ready to be planned.

    Attributes:
        work: itself.
        model: its file or name.
        of: format and precision that each device runs.
        notes: what was not measured.
        parts: names of an ensemble's parts.
        items: images that travel together.
    """

    work: Work
    model: str
    of: dict[str, tuple[Format, str]]
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    items: int = 1


def plan(
    source: str | Path,
    *,
    devices: str | Path | None = None,
    local: int | None = None,
    options: PlanOptions = DEFAULT,
) -> PlanFile:
    """Plan a model on a cluster.

    Args:
        source: a Program (.pt2), or a class-wise split: its folder, or the manifest.json in it.
        devices: the cluster file; or
        local: so many worker processes on this machine.
        options: what may be said about it.

    Raises:
        EdgevitError: naming the file or the option that is wrong, or the constraint that forbids every plan.
    """
    if (devices is None) == (local is None):
        raise EdgevitError("give either --devices CLUSTER.yaml or --local N")
    path = Path(source)
    if path.is_dir() or path.name == "manifest.json":
        return _plan_split(path if path.is_dir() else path.parent, devices, local, options)
    if path.suffix != ".pt2":
        raise EdgevitError(f"{path} is neither a Program (.pt2) nor a split's folder or manifest.json")
    from edgevit.graph.cutting import find_cuts
    from edgevit.graph.program import Program
    from edgevit.planning.models import chain_of
    from edgevit.planning.predicted import predicted_times

    program = Program.load(path)
    cluster = _cluster(devices, local, program)
    found = find_cuts(program)
    chain = chain_of(program, options.wires, found=found)
    timings = None if options.costs is None else read_timings(options.costs, len(chain.segments))
    predicted = predicted_times(cluster, program, found.segments, timings)
    problem, notes = problem_of(cluster, chain, timings, options.max_memory, predicted)
    if options.from_run is not None:
        run = measured.read_run(options.from_run, path)
        measurements = measured.measurements_of(run, problem)
        problem, notes = _corrected(cluster, run, problem, options, measurements=measurements)
    return _document(_Drafted(Work(problem), str(path), _formats(cluster), notes), options, cluster)


def _corrected(
    cluster: Cluster,
    run: Located[RunFile],
    problem: Problem,
    options: PlanOptions,
    *,
    measurements: Sequence[measured.Measurement] = (),
    ratios: Mapping[str, float] | None = None,
) -> tuple[Problem, tuple[str, ...]]:
    """A problem with the times and lines of a run, and notes of what in it was not measured.

    Args:
        cluster: as its file has it.
        run: what was measured.
        problem: by which was planned.
        options: what may be said about the plan.
        measurements: of the problem's segments.
        ratios: of measured to planned times, by host; None for those of the measurements.
    """
    own = measured.ratios_of(problem, measurements) if ratios is None else ratios
    known = measured.ratios_of_cluster(cluster, own)
    times = Timings(measured.corrected_times(problem, measurements, known), run.path.name)
    lines = measured.corrected_lines(cluster, run)
    corrected, notes = problem_of(lines, problem.chain, times, options.max_memory)
    return corrected, (*notes, *measured.notes_of(cluster, run, known))


def _cluster(devices: str | Path | None, local: int | None, program: Program) -> Cluster:
    if devices is not None:
        return read_cluster(devices)
    from edgevit.planning.local import local_cluster

    return local_cluster(program, local or 0)


def _plan_split(
    folder: Path, devices: str | Path | None, local: int | None, options: PlanOptions
) -> PlanFile:
    from edgevit.graph.program import Program
    from edgevit.planning.models import chains_of_split
    from edgevit.pruning.split import MANIFEST, Manifest

    manifest = Manifest.read(folder / MANIFEST)
    cluster = _cluster(devices, local, Program.load(folder / manifest.parts[0].file))
    if cluster.pins:
        raise cluster.refused(("roles", "pinned"), "parts of a split are in no order: they cannot be pinned")
    if options.costs is not None:
        raise EdgevitError("--costs is of the segments of a Program; a split is planned by macs_per_second")
    whole, parts = chains_of_split(folder, manifest)
    problem, notes = problem_of(cluster, whole, None, options.max_memory)
    of_parts, _ = problem_of(cluster, parts, None, options.max_memory)
    if options.from_run is not None:
        run = measured.read_run(options.from_run, folder / MANIFEST)
        names = [part.name for part in manifest.parts]
        measurements = measured.measurements_of(run, of_parts, names)
        # Nobody ran the whole: devices are as wrong about it as about the parts.
        ratios = measured.ratios_of(of_parts, measurements)
        problem, notes = _corrected(cluster, run, problem, options, ratios=ratios)
        of_parts, _ = _corrected(cluster, run, of_parts, options, measurements=measurements)
    ensemble = Ensemble(
        of_parts, tuple(float(part.bytes_sent) for part in manifest.parts), _fusion(cluster, manifest)
    )
    drafted = _Drafted(
        Work(problem, ensemble),
        str(folder / MANIFEST),
        _formats(cluster),
        (*notes, *_of_split(cluster, manifest)),
        tuple(part.name for part in manifest.parts),
    )
    return _document(drafted, options, cluster)


def _fusion(cluster: Cluster, manifest: Manifest) -> float:
    """Seconds of making one answer, on the device that wants it; 0 where no device does."""
    sink = next((machine for machine in cluster.machines if machine.name == cluster.sink), None)
    speed = None if sink is None else sink.entry.macs_per_second
    return 0.0 if speed is None else manifest.fusion.parameters / speed


def _of_split(cluster: Cluster, manifest: Manifest) -> tuple[str, ...]:
    """What people must know who compare an ensemble with the whole."""
    accuracies = (
        f"top-1 on images held out: the whole {manifest.whole.accuracy:.2f} %, all parts "
        f"{manifest.fusion.accuracy:.2f} %, one device with the control in eight bits "
        f"{manifest.control.accuracy:.2f} %"
    )
    if cluster.sink is not None:
        return (accuracies,)
    return (
        accuracies,
        "no device wants the answer: sending features and making one answer of them cost nothing",
    )


def plan_pipeedge(
    folder: str | Path, *, model: str | None = None, batch: int = BATCH, options: PlanOptions = DEFAULT
) -> PlanFile:
    """Plan what PipeEdge's files describe; an item is a batch.

    Args:
        folder: with its three files.
        model: one of several in them.
        batch: images that travel together.
        options: what may be said about it.

    Raises:
        EdgevitError: naming the file and the line of what is wrong, or the constraint that forbids all plans.
    """
    problem = read_pipeedge(folder, model, batch)
    limited = tuple(
        replace(host, memory_bytes=min(host.memory_bytes, options.max_memory)) for host in problem.hosts
    )
    of: dict[str, tuple[Format, str]] = {host.name: ("onnx", "fp32") for host in problem.hosts}
    drafted = _Drafted(Work(replace(problem, hosts=limited)), model or str(folder), of, items=batch)
    # Its cost model has no price for the input, which every replica would need.
    modes = ("single", "pipeline") if options.mode is None else options.modes
    return _document(drafted, options, None, modes)


def _formats(cluster: Cluster) -> dict[str, tuple[Format, str]]:
    return {machine.name: (machine.format, machine.entry.precision) for machine in cluster.machines}


def _document(
    drafted: _Drafted, options: PlanOptions, cluster: Cluster | None, modes: Sequence[Mode] | None = None
) -> PlanFile:
    try:
        outcome = make_plan(drafted.work, options.objective, top=options.top, modes=modes or options.modes)
    except EdgevitError as error:
        if cluster is not None and cluster.pins and str(error).startswith("pinned: "):
            raise cluster.refused(("roles", "pinned"), str(error).removeprefix("pinned: ")) from error
        raise
    notes = [*drafted.notes]
    if any(task.received.precision != "fp32" for task in outcome.best.tasks):
        notes.append("activations are narrowed on the wire: what that costs in accuracy was not measured")
    ensemble = drafted.work.ensemble
    return document(
        outcome,
        drafted.work.problem,
        Artefacts(drafted.of, drafted.parts),
        model=drafted.model,
        items=drafted.items,
        notes=notes,
        fusion_seconds=0.0 if ensemble is None else ensemble.fusion_seconds,
    )
