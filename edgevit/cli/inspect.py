"""``edgevit inspect``."""

from __future__ import annotations

import click

from edgevit.cli import options, output


@click.command(short_help="Show what is in a Program: operators, size, cost.")
@click.argument("program")
@options.reporting
def command(program: str, as_json: bool, quiet: bool) -> None:
    """Show the card, the operators, the size and the cost of PROGRAM, a .pt2 file."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.graph.inspection import describe_count, inspect

    found = inspect(program)
    if as_json:
        output.print_json(found)
        return
    card = found.card
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in found.output_shapes.items())
    rows = {
        "model": f"{card.name} ({card.provenance.source}, weights: {card.provenance.weights})",
        "weights sha256": card.provenance.weights_sha256,
        "licence": card.licence or "not said",
        "images": card.preprocessing.describe(),
        "input": _shape(found.input_shape),
        "outputs": shapes,
        "labels": f"{len(card.labels)} ({', '.join(card.labels[:3])}, ...)" if card.labels else "none",
        "parameters": f"{describe_count(found.parameters)} ({output.megabytes(found.weight_bytes)})",
        "cost": f"{describe_count(found.macs)} multiply-accumulates an image",
        "steps": ", ".join(step.name for step in card.steps) or "none",
    }
    for name, value in rows.items():
        click.echo(f"{name:>15}  {value}")
    click.echo(
        f"{'operators':>15}  {len(found.operators)} kinds, {sum(o.count for o in found.operators)} in all"
    )
    for operator in found.operators:
        click.echo(f"{operator.count:>15}  {operator.operator}")


def _shape(shape: tuple[int | str, ...]) -> str:
    return "x".join(str(size) for size in shape)
