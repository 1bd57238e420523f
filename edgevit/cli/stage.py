"""``edgevit stage``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from edgevit.cli.log import print_log
from edgevit.cli.worker import until_stopped


@click.command(short_help="Serve one stage of a plan over HTTP, for a router such as KServe's.")
@click.argument("artefact")
@click.option("--name", required=True, help="Under which it is asked.")
@click.option("--takes", required=True, metavar="NAMES", help="Tensors, in the order of the file's inputs.")
@click.option("--gives", required=True, metavar="NAMES", help="Likewise of its outputs.")
@click.option("--sends", required=True, metavar="NAMES", help="Tensors of the answer, made or passed on.")
@click.option("--http", type=int, required=True, metavar="PORT", help="Of HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address at which it is asked.")
@click.option("--insecure", is_flag=True, help="Allow an address beyond this machine.")
@click.option("--threads", type=int, default=1, show_default=True, help="Of the runtime.")
def command(
    *,
    artefact: str,
    name: str,
    takes: str,
    gives: str,
    sends: str,
    http: int,
    host: str,
    insecure: bool,
    threads: int,
) -> None:
    """Run ARTEFACT, a stage's file, on the tensors that requests bring, until interrupted.

    A request is the Open Inference Protocol's, or the answer of the stage before as it is. `edgevit plan emit
    --for kserve` writes these commands.
    """
    print_log(logging.WARNING, "%(asctime)s %(message)s")
    from edgevit import extras
    from edgevit.runtime.doors import DoorOptions

    door = DoorOptions(host, http, insecure=insecure)
    extras.load("aiohttp", "runtime", "a stage's door")
    from edgevit.runtime.stage_door import StageOptions, serve_stage

    options = StageOptions(Path(artefact), name, _names(takes), _names(gives), _names(sends), threads=threads)
    serve_stage(
        options, door, until_stopped(), lambda: click.echo(f"serving {name} at http://{host}:{http}/v2")
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
