"""``edgevit keys``."""

from __future__ import annotations

from pathlib import Path

import click

from edgevit.cli import options, output


@click.group(short_help="Keys with which devices know one another: an authority, and a certificate for each.")
def command() -> None:
    """Make keys for `--tls`: `edgevit keys init keys`, then `edgevit keys device NAME --authority keys`."""


@command.command()
@click.argument("folder")
@options.force
def init(*, folder: str, force: bool) -> None:
    """Make an authority in FOLDER, which stays on this machine."""
    from edgevit.runtime.keys import AUTHORITY_PRIVATE, make_authority

    make_authority(Path(folder), force=force)
    click.echo(f"{output.TICK} {folder}: keep {AUTHORITY_PRIVATE} here; whoever has it can make devices")
    click.echo(f"next: edgevit keys device coordinator --authority {folder}")


@command.command()
@click.argument("name")
@click.option("--authority", required=True, metavar="DIR", help="What `edgevit keys init` wrote.")
@click.option("-o", "--output", "output_dir", metavar="DIR", help="Folder to write.  [default: NAME in DIR]")
@options.force
def device(*, name: str, authority: str, output_dir: str | None, force: bool) -> None:
    """Make the keys of a device called NAME, or `coordinator`, to be brought there."""
    from edgevit.runtime.keys import make_device
    from edgevit.runtime.messages import check_name

    check_name(name, "device")
    folder = Path(authority) / name if output_dir is None else Path(output_dir)
    make_device(name, Path(authority), folder, force=force)
    click.echo(f"{output.TICK} {folder}: bring it to {name}, where --tls names it")
