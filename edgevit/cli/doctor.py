"""``edgevit doctor``."""

from __future__ import annotations

import click

from edgevit.cli import options, output


@click.command(short_help="What works on this machine, and how to get the rest.")
@options.reporting
def command(as_json: bool, quiet: bool) -> None:
    """List what is installed, and the command that installs what is not. Changes nothing."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.diagnosis import doctor

    found = doctor()
    if as_json:
        output.print_json(found)
        return
    cuda = "CUDA" if found.cuda else "no CUDA"
    click.echo(f"edgevit {found.edgevit}, Python {found.python}, {found.system}, {found.cores} cores, {cuda}")
    click.echo("  " + "  ".join(f"{name} {version}" for name, version in found.core.items()))
    for extra in found.extras:
        text = "  ".join(f"{name} {version}" for name, version in extra.versions.items())
        if extra.install is None:
            click.echo(f"{output.TICK} {extra.name:<8} {text}")
        else:
            click.echo(f"{output.CROSS} {extra.name:<8} lacks {', '.join(extra.missing)}: {extra.install}")
