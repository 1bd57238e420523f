"""``edgevit worker``."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import click

from edgevit.cli import options
from edgevit.cli.log import print_log


@click.command(short_help="Be a device of a plan: run the stages that a coordinator assigns.")
@click.option("--name", required=True, help="The device's name in plans.")
@options.links
@click.option("--threads", type=int, default=1, show_default=True, help="Of the runtime, for one stage.")
@click.option("--cache", metavar="DIR", help="Where artefacts are kept.  [default: the user's cache]")
@click.option("--cache-limit", metavar="BYTES", default="2GB", show_default=True, help="Of all of them.")
@click.option("--profile", metavar="FILE", help="The device's profile, announced by its hash.")
@click.option("--until-eof", is_flag=True, hidden=True, help="End when standard input does.")
def command(
    *,
    name: str,
    listen: tuple[str, ...],
    connect: tuple[str, ...],
    tls: str | None,
    insecure: bool,
    threads: int,
    cache: str | None,
    cache_limit: str,
    profile: str | None,
    until_eof: bool,
) -> None:
    """Join the network, announce what runs here, and run what a coordinator assigns, until interrupted."""
    from edgevit.runtime.transport import Links, log_refusals
    from edgevit.runtime.worker import WorkerOptions, work

    print_log(logging.INFO, "%(asctime)s %(message)s")
    if tls is not None:
        log_refusals()
    work(
        WorkerOptions(
            name=name,
            links=Links(listen, connect, None if tls is None else Path(tls), insecure),
            threads=threads,
            cache=None if cache is None else Path(cache),
            cache_limit=options.amount_of("cache-limit", cache_limit),
            profile=None if profile is None else Path(profile),
        ),
        _until_eof if until_eof else until_stopped(),
    )


def until_stopped() -> Callable[[], None]:
    """A function that waits for an interrupt or a request to end, which end a service as they should.

    The system hands a signal to any thread, and the network's library has many. A handler runs in the main
    thread, once that does something: one that waits never does. But the interpreter writes to this socket at
    once, in whichever thread it is.
    """
    ends = socket.socketpair()
    ends[1].setblocking(False)
    signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        ends[0].recv(1)

    return wait


def _until_eof() -> None:
    # Whoever started this process holds the other end: however that one ends, this one does.
    sys.stdin.buffer.read()
