"""``edgevit train-nested``."""

from __future__ import annotations

from typing import Any

import click

from edgevit.cli import options, output

# Of the command line, and of what trains.
_TRAINING = ("epochs", "batch", "lr", "flip", "crop_padding", "label_smoothing", "precision", "seed")
_NESTED = ("granularity", "distil")


@click.command(short_help="Train a model whose first units are smaller models by themselves (MatFormer).")
@click.argument("model")
@options.source_choices
@options.data
@click.option("-o", "--output", "output_file", metavar="FILE", required=True, help="The .pt2 file to write.")
@click.option(
    "--widths",
    "shares",
    metavar="SHARES",
    default="0.125,0.25,0.5,1.0",
    show_default=True,
    help="Of the units of an axis, at which it is trained.",
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="Of axes that become nested; may be repeated.  [default: hidden]",
)
@click.option(
    "--granularity",
    metavar="NAME",
    default="joint",
    show_default=True,
    help="All widths at each step, joint, or one that is drawn, sampled.",
)
@click.option(
    "--distil",
    type=float,
    default=0.5,
    show_default=True,
    help="Share that the whole's predictions have of the loss of narrower ones.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Over the images.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Images of a step.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Of AdamW, at its highest.")
@click.option(
    "--label-smoothing", type=float, default=0.0, show_default=True, help="Spread over all classes."
)
@options.flip
@options.crop_padding
@options.precision
@click.option("--images", type=click.IntRange(min=1), help="Drawn by chance.  [default: all]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."
)
@click.option(
    "--torch-device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Train there.",
)
@options.on_bad_image
@options.force
@options.reporting
def command(
    *,
    model: str,
    data: str,
    output_file: str,
    shares: str,
    roles: tuple[Any, ...],
    images: int | None,
    torch_device: str,
    on_bad_image: Any,
    force: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Train MODEL with the images of a folder, and write a nested Program; `--weights random` starts anew."""
    output.prepare(as_json=as_json, quiet=quiet)
    widths = options.shares_of(shares)
    import torch

    from edgevit.cli.elastic import print_nested
    from edgevit.graph.capture import capture
    from edgevit.measured_submodels import summary, train_nested_folder
    from edgevit.pruning.loop import TrainingOptions
    from edgevit.submodels.elastic import DEFAULT_ROLES
    from edgevit.submodels.training import NestedOptions

    training = TrainingOptions(**{name: choices.pop(name) for name in _TRAINING})
    given = {name: choices.pop(name) for name in _NESTED}
    nested = NestedOptions(shares=widths, roles=roles or DEFAULT_ROLES, **given)
    # Weights that are drawn by chance are the same when an interrupted run goes on.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        program = capture(model, **choices)
    result = train_nested_folder(
        program,
        data=data,
        output=output_file,
        nested=nested,
        options=training,
        images=images,
        torch_device=torch_device,
        on_bad_image=on_bad_image,
        force=force,
    )
    if as_json:
        output.print_json(summary(result))
        return
    print_nested(result)
