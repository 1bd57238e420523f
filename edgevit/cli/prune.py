"""``edgevit prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.measured_pruning import MeasuredPruning

# Axes that are named one by one.
_SHOWN = 8


@click.command(short_help="Make a Program smaller by taking whole units from its layers, without training.")
@click.argument("program")
@click.option(
    "--keep", type=float, default=0.5, show_default=True, help="The share of the cost that may be left."
)
@click.option("--of", metavar="COST", default="macs", show_default=True, help="macs, parameters or latency.")
@click.option(
    "--data", metavar="DIR", required=True, help="Images to prune with; accuracy is compared where labelled."
)
@click.option("-o", "--output", "output_file", metavar="FILE", required=True, help="The .pt2 file to write.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="Of axes that may shrink; may be repeated.  [default: query-key, value, hidden, channels]",
)
@click.option(
    "--no-compensation", is_flag=True, help="Leave the layers as they are that read what is taken away."
)
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Drawn by chance.")
@click.option("--to", metavar="FORMAT", default="onnx", show_default=True, help="Whose runtime is timed.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@options.on_bad_image
@click.option("--force", is_flag=True, help="Replace what is there.")
@options.reporting
def command(
    *,
    program: str,
    data: str,
    output_file: str,
    roles: tuple[Any, ...],
    no_compensation: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Prune PROGRAM, a .pt2 file, with the images of a folder."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.measured_pruning import prune_folder, summary
    from edgevit.pruning.prune import DEFAULT_ROLES

    result = prune_folder(
        program,
        data=data,
        output=output_file,
        roles=roles or DEFAULT_ROLES,
        compensation=not no_compensation,
        **choices,
    )
    if as_json:
        output.print_json(summary(result))
        return
    print_result(result)


def print_result(result: MeasuredPruning) -> None:
    """What went, what it cost and gained, and what comes next."""
    found = result.pruning
    shrunk = sorted((axis for axis in found.axes if axis.kept < axis.size), key=lambda axis: -axis.loss)
    for axis in shrunk[:_SHOWN]:
        click.echo(f"  {axis.name}: {axis.kept} of {axis.size} stay, {axis.loss:.2g} nats expected")
    if len(shrunk) > _SHOWN:
        click.echo(f"  and {len(shrunk) - _SHOWN} more")
    before, after = found.divergence
    fitted = f", {after:.3g} after {len(found.layers)} layers were fitted" if found.layers else ""
    click.echo(f"predictions differ by {before:.3g} nats{fitted}")
    click.echo(
        f"{found.macs[1] / 1e6:.4g} of {found.macs[0] / 1e6:.4g} million multiply-accumulates, "
        f"{found.parameters[1] / 1e6:.3g} of {found.parameters[0] / 1e6:.3g} million numbers"
    )
    if result.format is not None:
        click.echo(
            f"{result.format}: {result.latency_ratio:.2f}x the latency on one thread, "
            f"{result.size_ratio:.2f}x the size"
        )
    if result.accuracy is not None:
        whole, small = result.accuracy
        click.echo(f"top-1 {small:.2f} %, of {whole:.2f} %, on {result.judged} other images")
    click.echo(f"{output.TICK} {result.path}  {found.seconds:.0f} s")
    click.echo(f"next: edgevit compress {result.path} --quantize w8a8 --calib DIR -o FILE")
