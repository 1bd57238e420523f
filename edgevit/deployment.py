"""Deploy: from a model and a folder of images to a verified, evaluated, profiled artefact with a report."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgevit import extras
from edgevit.evaluation import Evaluation, evaluate_runnable
from edgevit.export.artefacts import open_artefact
from edgevit.export.exporting import ExportedArtefact, export
from edgevit.export.formats import ExportChoices, check_formats
from edgevit.export.metadata import METADATA_FILE
from edgevit.export.placement import Placement
from edgevit.export.target import check_runs
from edgevit.files import check_output, size_of, staged_folder
from edgevit.graph.capture import capture
from edgevit.graph.card import IMAGE
from edgevit.graph.inspection import Inspection, inspect
from edgevit.graph.program import Program
from edgevit.images import ImageFolder, OnBadImage, open_folder
from edgevit.prediction.predicting import Prediction, predict_artefact
from edgevit.profiles import DeviceProfile, load_profile
from edgevit.profiling import LatencyProfile, profile
from edgevit.profiling.local import check_profilable
from edgevit.progress import working
from edgevit.report.document import (
    REPORT_VERSION,
    ArtefactSection,
    DataSection,
    MistakeSection,
    ModelSection,
    PredictedSection,
    Report,
    StageSection,
)
from edgevit.report.write import HTML_FILE, JSON_FILE, write_report

PROGRAM_FILE = "program.pt2"


@dataclass(frozen=True)
class DeployedArtefact:
    """One artefact with everything that was measured on it.

    Attributes:
        exported: the file and its verification.
        evaluation: its accuracy, run in its own runtime.
        latency: its profile on this machine.
        agreement: percent of images on which it gives the Program's class.
        predicted: its latency on the device that it is meant for; None where nothing was measured there.
    """

    exported: ExportedArtefact
    evaluation: Evaluation
    latency: LatencyProfile
    agreement: float
    predicted: Prediction | None


@dataclass(frozen=True)
class Deployment:
    """What `deploy` made.

    Attributes:
        folder: holds the artefacts, ``program.pt2``, ``metadata.json`` and the report.
        inspection: the Program at a glance.
        program_bytes: size of ``program.pt2``.
        evaluation: the Program's accuracy in torch.
        artefacts: one per format.
        device: the profile of the device it is meant for; None for this machine.
        stages: (name, seconds) in the order they ran.
    """

    folder: Path
    inspection: Inspection
    program_bytes: int
    evaluation: Evaluation
    artefacts: tuple[DeployedArtefact, ...]
    device: DeviceProfile | None
    stages: tuple[tuple[str, float], ...]

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.folder / HTML_FILE

    @property
    def passed(self) -> bool:
        """Whether every artefact computes what the Program does."""
        return all(
            item.exported.verification is None or item.exported.verification.passed for item in self.artefacts
        )


@dataclass
class _Clock:
    stages: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.stages.append((name, time.perf_counter() - started))


def deploy(
    model: str | Program,
    *,
    data: str | Path,
    output: str | Path,
    to: Sequence[str] = ("onnx",),
    device: str | None = None,
    batch: int | str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    resize: int | tuple[int, int] | str | None = None,
    interpolation: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: tuple[str, ...] | str | Path | None = None,
    name: str | None = None,
    threads: int | None = None,
    on_bad_image: OnBadImage = "fail",
    strict: bool = False,
    force: bool = False,
) -> Deployment:
    """Capture, export, verify, evaluate, profile and report; all of it is written, or nothing.

    Args:
        model: a model source as for `capture`, or a Program.
        data: labelled images (see `edgevit.images.open_folder`).
        output: the folder to write.
        to: formats, of `edgevit.export.formats.FORMATS`, that can be profiled on this machine.
        device: name or file of a device profile; the formats must run there, and are written for it as
            `export` does for a target. Latency is measured on this machine, and the report says so; where
            the profile has measured operators, what is to be expected there is predicted.
        batch: images per run (ONNX), a number or "dynamic"; None is one.
        weights: as for `capture`, like the options up to `name`.
        num_classes: see `capture`.
        input_size: see `capture`.
        resize: see `capture`.
        interpolation: see `capture`.
        mean: see `capture`.
        std: see `capture`.
        labels: see `capture`.
        name: see `capture`.
        threads: of the runtime while it is profiled; None uses all cores.
        on_bad_image: "fail" or "skip".
        strict: treat a failed verification as an error, and write nothing.
        force: replace what is in the folder already.

    Raises:
        EdgevitError: when anything cannot be used; before long work where that can be known.
        CheckFailedError: under `strict`, when an artefact is outside tolerance.
    """
    output, clock = Path(output), _Clock()
    target = preflight(model, data=data, output=output, to=to, device=device, force=force)
    with clock.stage("capture"), working("capturing"):
        program = (
            model
            if isinstance(model, Program)
            else capture(
                model,
                weights=weights,
                num_classes=num_classes,
                input_size=input_size,
                resize=resize,
                interpolation=interpolation,
                mean=mean,
                std=std,
                labels=labels,
                name=name,
            )
        )
        inspection = inspect(program)
    folder = open_folder(data, num_classes=program.num_classes, class_names=program.card.labels)
    folder.require_labels()
    with staged_folder(output) as stage:
        program.save(stage / PROGRAM_FILE)
        with clock.stage("export and verify"):
            exported = export(
                program, to=to, target=device, output=stage, batch=batch, data=data, strict=strict
            )
        with clock.stage("evaluate in torch"):
            evaluation = evaluate_runnable(program, folder, on_bad_image=on_bad_image)
        artefacts = tuple(
            _measured(item, folder, evaluation, clock, target, threads=threads, on_bad_image=on_bad_image)
            for item in exported.artefacts
        )
        deployment = Deployment(
            folder=output,
            inspection=inspection,
            program_bytes=size_of(stage / PROGRAM_FILE),
            evaluation=evaluation,
            artefacts=tuple(_relocated(item, output) for item in artefacts),
            device=target,
            stages=tuple(clock.stages),
        )
        write_report(_report(deployment, folder), folder, stage)
    return deployment


def preflight(
    model: str | Program,
    *,
    data: str | Path,
    output: str | Path,
    to: Sequence[str] = ("onnx",),
    device: str | None = None,
    force: bool = False,
) -> DeviceProfile | None:
    """Everything that can be known before the work: formats, libraries, device, images, output.

    Returns:
        The profile of `device`, or None for this machine.

    Raises:
        EdgevitError: naming the first thing that stands in the way.
        MissingDependencyError: naming the extra to install.
    """
    formats = check_formats(to, ExportChoices())
    for format_ in formats:
        check_profilable(format_.file)
    names = [PROGRAM_FILE, METADATA_FILE, JSON_FILE, HTML_FILE, *(format_.file for format_ in formats)]
    check_output(Path(output), names=names, force=force)
    for format_ in formats:
        extras.require(format_.extra, f"exporting {format_.file}")
    kind = model.partition(":")[0] if isinstance(model, str) else ""
    if kind in ("timm", "hf"):
        extras.require(kind, str(model))
    target = None if device is None else load_profile(device)
    if target is not None:
        check_runs(target, to, option="--device")
    open_folder(data).require_labels()
    return target


def _measured(
    item: ExportedArtefact,
    folder: ImageFolder,
    reference: Evaluation,
    clock: _Clock,
    target: DeviceProfile | None,
    *,
    threads: int | None,
    on_bad_image: OnBadImage,
) -> DeployedArtefact:
    with clock.stage(f"evaluate {item.path.name}"):
        evaluation = evaluate_runnable(open_artefact(item.path), folder, on_bad_image=on_bad_image)
    with clock.stage(f"profile {item.path.name}"):
        latency = profile(item.path, threads=threads, operators=False)
    same = sum(a == b for a, b in zip(evaluation.predictions, reference.predictions, strict=True))
    predicted = None if target is None else predict_artefact(item.path, target)
    return DeployedArtefact(item, evaluation, latency, 100.0 * same / evaluation.n, predicted)


def _relocated(item: DeployedArtefact, folder: Path) -> DeployedArtefact:
    """The same results under the name that the artefact gets when everything is done."""
    path = folder / item.exported.path.name
    verification = item.exported.verification
    if verification is not None:
        verification = dataclasses.replace(verification, artefact=str(path))
    return dataclasses.replace(
        item,
        exported=dataclasses.replace(item.exported, path=path, verification=verification),
        latency=dataclasses.replace(item.latency, artefact=str(path)),
    )


def _report(deployment: Deployment, folder: ImageFolder) -> Report:
    latency = deployment.artefacts[0].latency
    return Report(
        version=REPORT_VERSION,
        edgevit=extras.version_of("edgevit") or "",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        target=None if deployment.device is None else deployment.device.title,
        machine={
            "system": latency.system,
            "machine": latency.machine,
            "cores": latency.cores,
            "python": latency.python,
        },
        model=_model_section(deployment),
        data=DataSection(
            folder=folder.root.name,
            n=deployment.evaluation.n,
            classes=deployment.evaluation.classes,
            skipped=deployment.evaluation.skipped,
        ),
        pipeline=tuple(StageSection(name, seconds) for name, seconds in deployment.stages),
        artefacts=tuple(_artefact_section(item) for item in deployment.artefacts),
        mistakes=_mistake_sections(deployment),
    )


def _model_section(deployment: Deployment) -> ModelSection:
    found, card = deployment.inspection, deployment.inspection.card
    return ModelSection(
        name=card.name,
        source=card.provenance.source,
        weights=card.provenance.weights,
        weights_sha256=card.provenance.weights_sha256,
        licence=card.licence,
        images=card.preprocessing.describe(),
        input_shape=found.input_shapes[IMAGE],
        classes=int(found.output_shapes[card.outputs[0]][-1]),
        parameters=found.parameters,
        macs=found.macs,
        file=PROGRAM_FILE,
        bytes=deployment.program_bytes,
        runtime=deployment.evaluation.runtime,
        top1=deployment.evaluation.top1,
        top5=deployment.evaluation.top5,
    )


def _artefact_section(item: DeployedArtefact) -> ArtefactSection:
    info, verification = item.exported.info, item.exported.verification
    return ArtefactSection(
        file=item.exported.path.name,
        format=info.format,
        precision=info.precision,
        bytes=info.bytes,
        sha256=info.sha256,
        options=dict(info.options),
        tools=info.tools,
        outputs=() if verification is None else verification.outputs,
        passed=verification is not None and verification.passed,
        runtime=item.evaluation.runtime,
        top1=item.evaluation.top1,
        top5=item.evaluation.top5,
        agreement=item.agreement,
        latency=item.latency.summary(),
        placement=_placement(item),
        predicted=_predicted_section(item.predicted),
    )


def _predicted_section(found: Prediction | None) -> PredictedSection | None:
    if found is None:
        return None
    return PredictedSection(
        found.runtime, found.threads, found.ms, found.low_ms, found.high_ms, notes=found.notes
    )


def _placement(item: DeployedArtefact) -> Placement | None:
    """Where its operators can run, the file by its name alone."""
    found = item.exported.placement
    return None if found is None else dataclasses.replace(found, artefact=item.exported.path.name)


def _mistake_sections(deployment: Deployment) -> tuple[MistakeSection, ...]:
    labels = deployment.inspection.card.labels
    reference = {mistake.file: mistake.predicted for mistake in deployment.evaluation.mistakes}

    def named(index: int) -> str:
        return labels[index] if labels else str(index)

    return tuple(
        MistakeSection(
            file=mistake.file,
            label=named(mistake.label),
            predicted=named(mistake.predicted),
            confidence=mistake.confidence,
            label_confidence=mistake.label_confidence,
            model_agrees=reference.get(mistake.file) == mistake.predicted,
        )
        for mistake in deployment.artefacts[0].evaluation.mistakes
    )
