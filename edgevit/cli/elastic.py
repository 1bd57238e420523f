"""``edgevit elastic``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.measured_submodels import MeasuredNested
    from edgevit.submodels.slices import Slices


@click.command(short_help="Make a Program from which smaller ones can be taken, without training.")
@click.argument("program")
@click.option(
    "--calib", metavar="DIR", required=True, help="Images to fit layers with; accuracy where labelled."
)
@click.option("-o", "--output", "output_file", metavar="FILE", required=True, help="The .pt2 file to write.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="Of axes that may be narrower; may be repeated.  [default: hidden]",
)
@click.option(
    "--widths",
    "shares",
    metavar="SHARES",
    help="Of the units of an axis.  [default: 0.125,0.25,0.375,0.5,0.625,0.75,0.875]",
)
@click.option(
    "--blocks",
    metavar="NAMES",
    help="What may stand in for residual branches: skip (their mean), linear (one layer), or skip,linear.",
)
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Drawn by chance.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@options.on_bad_image
@click.option("--force", is_flag=True, help="Replace what is there.")
@options.reporting
def command(
    *,
    program: str,
    calib: str,
    output_file: str,
    roles: tuple[Any, ...],
    shares: str | None,
    blocks: str | None,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Make PROGRAM, a .pt2 file, elastic with the images of a folder."""
    output.prepare(as_json=as_json, quiet=quiet)
    wanted = None if shares is None else options.shares_of(shares)
    replacements: Any = () if blocks is None else tuple(word.strip() for word in blocks.split(","))
    from edgevit.measured_submodels import elastic_folder, summary
    from edgevit.submodels.elastic import DEFAULT_ROLES, SHARES

    result = elastic_folder(
        program,
        calib=calib,
        output=output_file,
        roles=roles or DEFAULT_ROLES,
        shares=wanted or SHARES,
        replacements=replacements,
        **choices,
    )
    if as_json:
        output.print_json(summary(result))
        return
    print_nested(result)


def print_nested(result: MeasuredNested) -> None:
    """What the slices are, and what comes next."""
    print_slices(result.slices)
    slices = result.slices.slices
    click.echo(f"{output.TICK} {result.path}  nested at {len(slices[0].widths)} axes")
    click.echo(f"next: edgevit compress {result.path} --submodel {slices[0].name} -o FILE")


def print_slices(slices: Slices) -> None:
    """A table of what each slice costs and gives."""
    labelled = slices.slices[0].accuracy is not None
    click.echo(f"{'slice':>8}  {'M MACs':>8}  {'M param':>8}  {'same class':>10}  {'nats':>8}", nl=False)
    click.echo(f"  {'top-1':>7}  {'1-NN':>7}" if labelled else "")
    for one in slices.slices:
        line = (
            f"{one.name:>8}  {one.macs / 1e6:8.4g}  {one.parameters / 1e6:8.3g}  {one.agreement:9.2f}%  "
            f"{one.divergence:8.3g}"
        )
        neighbour = "      -" if one.neighbour is None else f"{one.neighbour:6.2f}%"
        click.echo(line + (f"  {one.accuracy:6.2f}%  {neighbour}" if labelled else ""))
    click.echo(f"of {slices.images} images")
