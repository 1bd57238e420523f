"""``edgevit export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.export.exporting import ExportResult


@click.command(short_help="Export a Program for a device's runtime, and verify it.")
@click.argument("program")
@click.option(
    "--to",
    metavar="FORMATS",
    help="onnx, tflite, coreml, with commas between.  [default: onnx, or the target's]",
)
@options.target
@options.output_folder
@options.export_choices
@click.option("--data", metavar="DIR", help="Verify on these images instead of noise.")
@click.option(
    "--verify/--no-verify", "verify_artefacts", default=True, help="Run what was written and compare."
)
@options.strict
@options.force
@options.reporting
def command(
    *,
    program: str,
    to: str | None,
    target: str | None,
    output_dir: str,
    data: str | None,
    verify_artefacts: bool,
    strict: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Write PROGRAM, a .pt2 file, for a device's runtime."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.export.exporting import export

    result = export(
        program,
        to=None if to is None else to.split(","),
        target=target,
        output=output_dir,
        data=data,
        verify_artefacts=verify_artefacts,
        strict=strict,
        force=force,
        **choices,
    )
    if as_json:
        output.print_json(
            {
                "folder": result.folder,
                "passed": result.passed,
                "target": result.target,
                "artefacts": result.artefacts,
            }
        )
        return
    print_export(result)
    path = result.artefacts[0].path
    click.echo(f"next: edgevit evaluate {path} --data DIR\n      edgevit profile {path}")


def print_export(result: ExportResult) -> None:
    """One line per choice for a target, one an artefact, one its operators, one a verified output."""
    for line in result.target:
        click.echo(line)
    for artefact in result.artefacts:
        size = output.megabytes(artefact.info.bytes)
        click.echo(f"{artefact.path}  {size}  {artefact.info.precision}  {artefact.seconds:.1f} s")
        if artefact.placement is not None:
            click.echo(
                f"{output.operators_line(artefact.placement)}; details: edgevit inspect {artefact.path}"
            )
        if "opencv" in artefact.info.options:
            click.echo(f"  {artefact.info.options['opencv']}")
        if artefact.verification is None:
            click.echo(f"{output.CROSS} not verified")
            continue
        for parity in artefact.verification.outputs:
            click.echo(output.check_line(parity.explain(), passed=parity.passed))
