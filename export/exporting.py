"""Export: a Program becomes files for a device's runtime, described, and verified by running them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit import extras
from edgevit.errors import CheckFailedError
from edgevit.export.formats import FORMATS, ExportChoices, check_formats
from edgevit.export.metadata import METADATA_FILE, ArtefactInfo, Metadata
from edgevit.export.placement import Placement, placement
from edgevit.export.target import best_formats, choose_for
from edgevit.export.verify import Verification, verify
from edgevit.files import check_output, staged_folder
from edgevit.graph.program import Program
from edgevit.profiles import DeviceProfile, load_profile
from edgevit.progress import working
from edgevit.quant.insertion import is_quantized


@dataclass(frozen=True)
class ExportedArtefact:
    """One artefact that was written.

    Attributes:
        path: where it is.
        info: what it holds.
        seconds: how long the conversion took.
        verification: the comparison with the Program; None where it was not wanted.
        placement: where its operators can run, on the target device or anywhere.
    """

    path: Path
    info: ArtefactInfo
    seconds: float
    verification: Verification | None
    placement: Placement | None = None


@dataclass(frozen=True)
class ExportResult:
    """Everything that an export wrote.

    Attributes:
        folder: where it is.
        artefacts: one per format.
        target: what the target device asked for, one line a format; empty without a target.
    """

    folder: Path
    artefacts: tuple[ExportedArtefact, ...]
    target: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every verification that was made passed."""
        return all(
            artefact.verification is None or artefact.verification.passed for artefact in self.artefacts
        )


def export(
    program: Program | str | Path,
    *,
    to: Sequence[str] | None = None,
    target: str | None = None,
    output: str | Path,
    batch: int | str | None = None,
    precision: str | None = None,
    opset: int | str | None = None,
    optimize: str | None = None,
    check_opencv: bool | None = None,
    layout: str | None = None,
    integer_io: bool | None = None,
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
        to: formats, of `edgevit.export.formats.FORMATS`; None is the target's, or ONNX without one.
        target: the name of a device profile, or its file: formats, precision, layout and oldest system
            are chosen for it where they are not given (see `edgevit.export.target`).
        output: the folder to write into.
        batch: see `ExportChoices`, like the options up to `minimum_ios`.
        precision: see `ExportChoices`.
        opset: see `ExportChoices`.
        optimize: see `ExportChoices`.
        check_opencv: see `ExportChoices`.
        layout: see `ExportChoices`.
        integer_io: see `ExportChoices`.
        coreml_input: see `ExportChoices`.
        minimum_ios: see `ExportChoices`.
        data: a folder of images to verify on; None verifies on noise.
        verify_artefacts: run each artefact and compare it with the Program.
        strict: treat a failed verification as an error, and write nothing.
        force: replace artefacts that are in the folder already.

    Raises:
        EdgevitError: when a format or the target is unknown, the target does not run a format, the
            folder cannot be written, or conversion fails.
        CheckFailedError: under `strict`, when an artefact is outside tolerance.
    """
    choices = ExportChoices(
        batch=batch,
        precision=precision,
        opset=opset,
        optimize=optimize,
        check_opencv=check_opencv,
        layout=layout,
        integer_io=integer_io,
        coreml_input=coreml_input,
        minimum_ios=minimum_ios,
    )
    device = None if target is None else load_profile(target)
    if to is not None:
        check_formats(to, choices)
    program = program if isinstance(program, Program) else Program.load(program)
    plan = _plan(to, device, choices, quantized=is_quantized(program))
    formats = [FORMATS[name] for name in plan]
    for format_ in formats:
        extras.require(format_.extra, f"exporting {format_.file}")
    output = Path(output)
    check_output(output, names=[*(format_.file for format_ in formats), METADATA_FILE], force=force)
    with staged_folder(output) as stage:
        artefacts = []
        for format_, chosen in zip(formats, plan.values(), strict=True):
            started = time.perf_counter()
            with working(f"exporting {format_.file}"):
                info = format_.export(program, stage / format_.file, chosen.choices)
            seconds = time.perf_counter() - started
            artefacts.append(ExportedArtefact(stage / format_.file, info, seconds, None))
        metadata = Metadata(card=program.card, artefacts={item.path.name: item.info for item in artefacts})
        metadata.write(stage / METADATA_FILE)
        artefacts = [
            dataclasses.replace(item, placement=placement(item.path, device=device)) for item in artefacts
        ]
        if verify_artefacts:
            artefacts = [_verified(item, program, data, strict=strict) for item in artefacts]
    reasons = tuple(chosen.reason for chosen in plan.values() if chosen.reason)
    return ExportResult(output, tuple(_moved(item, output) for item in artefacts), reasons)


@dataclass(frozen=True)
class _Planned:
    """How a format is written, and what the target device asked for."""

    choices: ExportChoices
    reason: str | None = None


def _plan(
    to: Sequence[str] | None, device: DeviceProfile | None, choices: ExportChoices, *, quantized: bool
) -> dict[str, _Planned]:
    default = ("onnx",) if device is None else best_formats(device, quantized=quantized)
    names = default if to is None else to
    check_formats(names, choices)
    if device is None:
        return dict.fromkeys(names, _Planned(choices))
    chosen = choose_for(device, names, choices, quantized=quantized)
    return {item.format: _Planned(item.choices, item.explain()) for item in chosen}


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
    return dataclasses.replace(artefact, verification=verification)


def _moved(artefact: ExportedArtefact, folder: Path) -> ExportedArtefact:
    path = folder / artefact.path.name
    verification, placed = artefact.verification, artefact.placement
    if verification is not None:
        verification = dataclasses.replace(verification, artefact=str(path))
    if placed is not None:
        placed = dataclasses.replace(placed, artefact=str(path))
    return dataclasses.replace(artefact, path=path, verification=verification, placement=placed)
