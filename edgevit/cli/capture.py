"""``edgevit capture``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgevit.cli import options, output


@click.command(short_help="Capture a PyTorch model as a Program (.pt2).")
@click.argument("model")
@options.source_choices
@click.option("--frames", type=int, metavar="N", help="Frames of a clip, for a video classifier.")
@click.option("-o", "--output", "path", metavar="FILE.pt2", required=True, help="File to write.")
@options.force
@options.reporting
def command(model: str, path: str, force: bool, as_json: bool, quiet: bool, **choices: Any) -> None:
    """Capture MODEL with torch.export and write graph, weights and card to one .pt2 file."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.files import check_output, size_of
    from edgevit.graph.capture import capture
    from edgevit.progress import working

    check_output(Path(path), force=force)
    with working(f"capturing {model}"):
        program = capture(model, **choices)
        program.save(path, force=force)
    if as_json:
        batch = program.batch or "dynamic"
        output.print_json({"path": path, "bytes": size_of(Path(path)), "batch": batch, "card": program.card})
        return
    card = program.card
    click.echo(f"{path}  {output.megabytes(size_of(Path(path)))}")
    click.echo(f"  {card.name}, {program.num_classes} classes, weights: {card.provenance.weights}")
    click.echo(f"  images: {card.preprocessing.describe()}")
    for note in _notes(program):
        click.echo(f"  {note}")
    click.echo(f"next: edgevit export {path} --to onnx -o {Path(path).stem}-onnx")


def _notes(program: Any) -> list[str]:
    notes = []
    measured = program.card.steps[-1].measured if program.card.steps else {}
    if program.batch is None:
        notes.append("batch: dynamic")
    else:
        notes.append(f"batch: {program.batch} ({measured.get('static_because', 'fixed in the file')})")
    if program.card.labels is None:
        notes.append("labels: none; pass --labels FILE so that answers have names")
    return notes
