"""``edgevit deploy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.deployment import Deployment


@click.command(short_help="The whole job: from a model and images to a verified artefact and a report.")
@click.argument("model")
@options.data
@options.output_folder
@options.formats
@click.option(
    "--device",
    metavar="NAME|FILE",
    help="What the artefacts are meant for (edgevit devices).",
)
@options.batch
@options.source_choices
@options.threads
@options.on_bad_image
@options.strict
@options.force
@click.option("--dry-run", is_flag=True, help="Check everything that can be checked, and stop.")
@options.reporting
def command(
    *,
    model: str,
    data: str,
    output_dir: str,
    to: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Capture MODEL, export it, verify, evaluate and profile what was written, and report."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.deployment import deploy, preflight

    formats = to.split(",")
    if dry_run:
        target = preflight(
            model, data=data, output=output_dir, to=formats, device=choices["device"], force=choices["force"]
        )
        where = "this machine" if target is None else target.title
        click.echo(
            f"{output.TICK} {model} can be deployed as {to} for {where} into {output_dir}; nothing was done"
        )
        return
    result = deploy(model, data=data, output=output_dir, to=formats, **choices)
    if as_json:
        click.echo((result.folder / "report.json").read_text(encoding="utf-8"))
        return
    print_deployment(result)


def print_deployment(result: Deployment) -> None:
    """Size, accuracy, parity and latency of each artefact, the report, and what to run next."""
    from edgevit.cli.profiled import print_profile

    program = result.folder / "program.pt2"
    click.echo(
        f"{program}  {output.megabytes(result.program_bytes)}  top-1 {result.evaluation.top1:.2f} % in torch"
    )
    for item in result.artefacts:
        info = item.exported.info
        click.echo(f"{item.exported.path}  {output.megabytes(info.bytes)}  {info.precision}")
        for parity in item.exported.verification.outputs if item.exported.verification else ():
            click.echo(output.check_line(parity.explain(), passed=parity.passed))
        click.echo(
            f"  top-1 {item.evaluation.top1:.2f} %   top-5 {item.evaluation.top5:.2f} %   "
            f"same class as the model {item.agreement:.2f} %   ({item.evaluation.n} images)"
        )
        print_profile(item.latency)
        if item.predicted is not None:
            found = item.predicted
            within = output.interval(found.low_ms, found.high_ms)
            click.echo(
                f"  predicted for {found.device}: p50 {found.ms:.2f} ms{within}, {found.runtime}, "
                f"threads {found.threads}"
            )
    for reason in result.evaluation.skipped:
        click.echo(f"  skipped: {reason}")
    path = result.artefacts[0].exported.path
    click.echo(f"next: edgevit profile {path} --threads 1\n      edgevit verify {path} --against {program}")
    click.echo(f"report: {result.report}")
