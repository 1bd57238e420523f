"""Export: a Program becomes files for a device's runtime, described, and verified by running them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import CheckFailedError, EdgevitError, closest
from edgevit.export.metadata import METADATA_FILE, ArtefactInfo, Metadata
from edgevit.export.onnx import to_onnx
from edgevit.export.verify import Verification, verify
from edgevit.files import check_output, staged_folder
from edgevit.graph.program import Program
from edgevit.progress import working

# Format -> the file or package it is written to.
FORMATS = {"onnx": "model.onnx"}


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
    batch: int | None = 1,
    data: str | Path | None = None,
    verify_artefacts: bool = True,
    strict: bool = False,
    force: bool = False,
) -> ExportResult:
    """Write a Program in the given formats, with ``metadata.json``, all of it or nothing.

    Args:
        program: the Program, or its ``.pt2``.
        to: formats, of `FORMATS`.
        output: the folder to write into.
        batch: a fixed batch size, or None for a dynamic one.
        data: a folder of images to verify on; None verifies on noise.
        verify_artefacts: run each artefact and compare it with the Program.
        strict: treat a failed verification as an error, and write nothing.
        force: replace artefacts that are in the folder already.

    Raises:
        EdgevitError: when a format is unknown, the folder cannot be written, or conversion fails.
        CheckFailedError: under `strict`, when an artefact is outside tolerance.
    """
    formats = check_formats(to)
    output = Path(output)
    check_output(output, names=[*(FORMATS[name] for name in formats), METADATA_FILE], force=force)
    program = program if isinstance(program, Program) else Program.load(program)
    with staged_folder(output) as stage:
        artefacts = []
        for name in formats:
            started = time.perf_counter()
            with working(f"exporting to {name}"):
                info = to_onnx(program, stage / FORMATS[name], batch=batch)
            seconds = time.perf_counter() - started
            artefacts.append(ExportedArtefact(stage / FORMATS[name], info, seconds, None))
        metadata = Metadata(card=program.card, artefacts={item.path.name: item.info for item in artefacts})
        metadata.write(stage / METADATA_FILE)
        if verify_artefacts:
            artefacts = [_verified(item, program, data, strict=strict) for item in artefacts]
    return ExportResult(output, tuple(_moved(item, output) for item in artefacts))


def check_formats(names: Sequence[str]) -> list[str]:
    """The formats, if all are known and none is named twice.

    Raises:
        EdgevitError: naming the one that is not.
    """
    for name in names:
        if name not in FORMATS:
            raise EdgevitError(f"--to: {name!r} is no format; {closest(name, FORMATS)}")
    if len(set(names)) != len(names) or not names:
        raise EdgevitError(f"--to: {','.join(names)!r}; name each format once")
    return list(names)


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
