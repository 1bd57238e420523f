"""``edgevit serve``."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options
from edgevit.cli.log import print_log
from edgevit.cli.run_plan import run_options
from edgevit.cli.worker import until_stopped

if TYPE_CHECKING:
    from edgevit.runtime.service import Service


@click.command(
    short_help="Serve a plan over HTTP and gRPC (Open Inference Protocol v2: tritonclient, KServe)."
)
@click.argument("plan")
@click.option("--http", type=int, required=True, metavar="PORT", help="Of HTTP.")
@click.option("--grpc", type=int, metavar="PORT", help="Of gRPC.  [default: not served]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address at which clients come in.")
@options.placing
@click.option("--name", help="What clients call the model.  [default: as the model is called]")
@click.option("--max-request", default="32MB", show_default=True, metavar="BYTES", help="Of one request.")
@click.option("--max-images", type=int, default=64, show_default=True, help="In one request.")
@click.option("--queue", type=int, default=256, show_default=True, help="Images that may wait.")
@click.option("--rate", type=float, metavar="R", help="Images in a second.  [default: no limit]")
@click.option(
    "--deadline",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Of a request that names none.",
)
def command(
    *,
    plan: str,
    http: int,
    grpc: int | None,
    host: str,
    name: str | None,
    max_request: str,
    max_images: int,
    queue: int,
    rate: float | None,
    deadline: float,
    **placing: Any,
) -> None:
    """Run PLAN and answer clients over HTTP, and gRPC, until interrupted."""
    print_log(logging.WARNING, "%(asctime)s %(message)s")
    from edgevit.runtime.doors import DoorOptions
    from edgevit.runtime.running import running
    from edgevit.runtime.service import ServiceOptions
    from edgevit.runtime.serving import serve
    from edgevit.runtime.transport import log_refusals

    most_bytes = options.amount_of("max-request", max_request)
    limit = math.inf if rate is None else rate
    limits = ServiceOptions(name, most_bytes, max_images, queue, limit, deadline)
    door = DoorOptions(host, http, grpc, placing["insecure"])
    wait = until_stopped()

    def opened(service: Service) -> None:
        click.echo(f"serving {service.served.name} at http://{host}:{http}/v2")

    if placing["tls"] is not None:
        log_refusals()
    with running(plan, run_options(**placing)) as coordinator:
        serve(coordinator, limits, door, wait, opened)
