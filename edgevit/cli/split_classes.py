"""``edgevit split-classes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.measured_splitting import MeasuredSplit
    from edgevit.pruning.split import Control, Manifest, Part

# Classes of a part that are named.
_SHOWN = 4


@click.command(short_help="Split a classifier by its classes into small ones for several devices.")
@click.argument("program")
@options.data
@options.output_folder
@click.option("--parts", type=int, metavar="N", help="How many sub-models.")
@click.option(
    "--devices", metavar="FILE", help="YAML of devices: one sub-model for each, that it has room for."
)
@click.option(
    "--keep",
    type=float,
    metavar="SHARE",
    help="Of the costs of the whole, at most what a part may have.  [default: 1/N; 0.5 for one part]",
)
@click.option(
    "--grouping",
    metavar="NAME",
    default="best",
    show_default=True,
    help="Of the classes: random, confusion, or the best of both.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of training with distillation; with 0 nothing but the fusion is trained.",
)
@options.flip
@options.crop_padding
@options.precision
@click.option(
    "--images", type=click.IntRange(min=1), default=2000, show_default=True, help="Drawn by chance."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@click.option(
    "--torch-device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Run and train there.",
)
@click.option(
    "--parallel", metavar="local|ray", default="local", show_default=True, help="Who makes the parts."
)
@click.option(
    "--workers", type=int, metavar="N", help="Processes on this machine.  [default: torch's threads]"
)
@options.on_bad_image
@options.force
@options.reporting
def command(
    *,
    program: str,
    data: str,
    output_dir: str,
    devices: str | None,
    images: int,
    on_bad_image: Any,
    force: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Split PROGRAM, a .pt2 file: each part is pruned for some of the classes, their features are fused."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.measured_splitting import split_folder, summary
    from edgevit.pruning.assignment import read_devices
    from edgevit.pruning.options import SplitOptions

    result = split_folder(
        program,
        data=data,
        output=output_dir,
        options=SplitOptions(devices=None if devices is None else read_devices(devices), **choices),
        images=images,
        on_bad_image=on_bad_image,
        force=force,
    )
    if as_json:
        output.print_json(summary(result))
        return
    print_result(result)


def print_result(result: MeasuredSplit) -> None:
    """What each part is, what all give together, what one device could do, and what comes next."""
    found = result.manifest
    whole = found.whole
    click.echo(f"{len(found.parts)} of {found.model}, {found.classes} classes {_grouping(found)}")
    for part in found.parts:
        without = "" if part.accuracy_without is None else f", {part.accuracy_without:.2f} % without it"
        click.echo(
            f"  {part.name}  {_costs(result, part.name, part)}  {part.bytes_sent} bytes sent  "
            f"{_classes(found, part)}: {part.accuracy:.2f} %{without}"
        )
    held_out = found.options.held_out
    click.echo(
        f"top-1 {found.fusion.accuracy:.2f} % fused, of {whole.accuracy:.2f} %, on {held_out} images held "
        f"out of {found.options.images + held_out}"
    )
    click.echo(
        f"control, one model in 8 bits: {found.control.accuracy:.2f} %  "
        f"{_costs(result, 'control', found.control)}{_verdict(found)}"
    )
    _print_placement(found)
    click.echo(f"{output.TICK} {result.folder}")
    path = result.folder / found.parts[0].file
    click.echo(f"next: edgevit export {path} --to onnx -o {path.with_suffix('')}-onnx")


def _costs(result: MeasuredSplit, name: str, one: Part | Control) -> str:
    whole = result.manifest.whole
    time = "" if result.latency is None else f"  {result.latency[name]:.2f}x the time"
    return (
        f"{output.megabytes(one.bytes)} ({one.bytes / whole.bytes:.2f}x)  "
        f"{one.macs / 1e6:.4g} M macs ({one.macs / whole.macs:.2f}x){time}"
    )


def _verdict(found: Manifest) -> str:
    if len(found.parts) == 1 or found.control.accuracy < found.fusion.accuracy:
        return ""
    return "; the split does not pay: one device does as well with this"


def _print_placement(found: Manifest) -> None:
    if found.placement is None:
        return
    for part_name, device in found.placement.device_of.items():
        click.echo(f"  {part_name} on {device}")
    greedy = "finds no placement" if found.greedy is None else f"{found.greedy.latency:.3g} s"
    click.echo(f"slowest device {found.placement.latency:.3g} s; largest first, as published: {greedy}")


def _grouping(found: Manifest) -> str:
    words = {"random": "at random", "confusion": "by confusion"}
    if found.compared is None:
        return words[found.grouping]
    accuracies = ", ".join(f"{words[name]} {value:.2f} %" for name, value in found.compared.items())
    return f"{words[found.grouping]} (compared on images learned from: {accuracies})"


def _classes(found: Manifest, part: Part) -> str:
    names = [str(index) if found.labels is None else found.labels[index] for index in part.classes]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
