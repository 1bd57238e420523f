"""``edgevit evaluate``."""

from __future__ import annotations

import dataclasses

import click

from edgevit.cli import options, output


@click.command(short_help="Accuracy of a Program or an artefact on labelled images.")
@click.argument("model")
@options.data
@options.on_bad_image
@options.reporting
def command(model: str, data: str, on_bad_image: str, as_json: bool, quiet: bool) -> None:
    """Top-1 and top-5 accuracy of MODEL, a .pt2 file or an exported artefact run in its own runtime."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.export.evaluate import evaluate

    result = evaluate(model, data=data, on_bad_image=on_bad_image)  # type: ignore[arg-type]  # checked there
    if as_json:
        output.print_json({"model": model, **dataclasses.asdict(result)})
        return
    click.echo(f"{model} in {result.runtime}, {result.n} images ({result.classes})")
    click.echo(f"  top-1 {result.top1:.2f} %   top-5 {result.top5:.2f} %")
    for reason in result.skipped:
        click.echo(f"  skipped: {reason}")
