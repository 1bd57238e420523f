"""Export: a Program becomes files for a device's runtime, described, and verified by running them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit import extras
from edgevit.errors import CheckFailedError
from edgevit.export.formats import ExportChoices, check_formats
from edgevit.export.metadata import METADATA_FILE, ArtefactInfo, Metadata
from edgevit.export.verify import Verification, verify
from edgevit.files import check_output, staged_folder
from edgevit.graph.program import Program
from edgevit.progress import working


@dataclass(frozen=True)
class ExportedArtefact:
    """One artefact that was written.

    Attributes:
        path: where it is.
        info: what it holds.
        seconds: how long the conversion took.
        verification: the comparison with the Program; None where it was not wanted.
    """

    path: Path
    info: ArtefactInfo
    seconds: float
    verification: Verification | None


@dataclass(frozen=True)
class ExportResult:
    """Everything that an export wrote."""

    folder: Path
    artefacts: tuple[ExportedArtefact, ...]

    @property
    def passed(self) -> bool:
        """Whether every verification that was made passed."""
        return all(
            artefact.verification is None or artefact.verification.passed for artefact in self.artefacts
        )


def export(
    program: Program | str | Path,
    *,
    to: Sequence[str] = ("onnx",),
    output: str | Path,
    batch: int | str | None = None,
    precision: str | None = None,
    opset: int | str | None = None,
    optimize: str | None = None,
    check_opencv: bool | None = None,
    layout: str | None = None,
    coreml_input: str | None = None,
    minimum_ios: str | None = None,
    data: str | Path | None = None,
    verify_artefacts: bool = True,
    strict: bool = False,
    force: bool = False,
) -> ExportResult:
    """Write a Program in the given formats, with ``metadata.json``, all of it or nothing.

    Args:
        program: the Program, or its ``.pt2``.
        to: formats, of `edgevit.export.formats.FORMATS`.
        output: the folder to write into.
        batch: see `ExportChoices`, like the options up to `minimum_ios`.
        precision: see `ExportChoices`.
        opset: see `ExportChoices`.
        optimize: see `ExportChoices`.
        check_opencv: see `ExportChoices`.
        layout: see `ExportChoices`.
        coreml_input: see `ExportChoices`.
        minimum_ios: see `ExportChoices`.
        data: a folder of images to verify on; None verifies on noise.
        verify_artefacts: run each artefact and compare it with the Program.
        strict: treat a failed verification as an error, and write nothing.
        force: replace artefacts that are in the folder already.

    Raises:
        EdgevitError: when a format is unknown, the folder cannot be written, or conversion fails.
        CheckFailedError: under `strict`, when an artefact is outside tolerance.
    """
    choices = ExportChoices(
        batch=batch,
        precision=precision,
        opset=opset,
        optimize=optimize,
        check_opencv=check_opencv,
        layout=layout,
        coreml_input=coreml_input,
        minimum_ios=minimum_ios,
    )
    formats = check_formats(to, choices)
    for format_ in formats:
        extras.require(format_.extra, f"exporting {format_.file}")
    output = Path(output)
    check_output(output, names=[*(format_.file for format_ in formats), METADATA_FILE], force=force)
    program = program if isinstance(program, Program) else Program.load(program)
    with staged_folder(output) as stage:
        artefacts = []
        for format_ in formats:
            started = time.perf_counter()
            with working(f"exporting {format_.file}"):
                info = format_.export(program, stage / format_.file, choices)
            seconds = time.perf_counter() - started
            artefacts.append(ExportedArtefact(stage / format_.file, info, seconds, None))
        metadata = Metadata(card=program.card, artefacts={item.path.name: item.info for item in artefacts})
        metadata.write(stage / METADATA_FILE)
        if verify_artefacts:
            artefacts = [_verified(item, program, data, strict=strict) for item in artefacts]
    return ExportResult(output, tuple(_moved(item, output) for item in artefacts))


def _verified(
    artefact: ExportedArtefact, program: Program, data: str | Path | None, *, strict: bool
) -> ExportedArtefact:
    with working(f"verifying {artefact.path.name}"):
        verification = verify(artefact.path, against=program, data=data)
    if strict and not verification.passed:
        worst = next(output for output in verification.outputs if not output.passed)
        raise CheckFailedError(
            f"{artefact.path.name} does not compute what the program does: {worst.explain()}"
        )
    return ExportedArtefact(artefact.path, artefact.info, artefact.seconds, verification)


def _moved(artefact: ExportedArtefact, folder: Path) -> ExportedArtefact:
    path = folder / artefact.path.name
    verification = artefact.verification
    if verification is not None:
        verification = Verification(
            str(path), verification.runtime, verification.inputs, verification.n, verification.outputs
        )
    return ExportedArtefact(path, artefact.info, artefact.seconds, verification)
