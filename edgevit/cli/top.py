"""``edgevit top``."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from edgevit.cli import output

if TYPE_CHECKING:
    from rich.console import Group

    from edgevit.runtime.watching import Look, ServiceView, TaskView

# Times are milliseconds, bytes thousands in a second: a table with units in its cells is too wide for many.
_HEADS = (
    *("device", "task", "runs/s", "now ms", "p50", "planned", "waits"),
    *("queue", "in kB/s", "out", "refused"),
)


@click.command(short_help="Watch a plan that is served: devices, queues, times beside the planned ones.")
@click.argument("target", metavar="URL|PORT")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks, over which rates are taken.",
)
@click.option("--once", is_flag=True, help="Print what one interval shows, and end.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(*, target: str, interval: float, once: bool, as_json: bool) -> None:
    """Show what `edgevit serve` does at URL, or at a PORT of this machine, until interrupted.

    Where the output is no terminal, it is shown once.
    """
    from edgevit.runtime.watching import look, metrics_url, view

    url = metrics_url(target)
    first = look(url)
    if not (once or as_json) and sys.stdout.isatty():
        _watch(url, first, interval)
        return
    time.sleep(interval)
    seen = view(first, look(url))
    if as_json:
        output.print_json(seen)
        return
    print_view(seen)


def print_view(seen: ServiceView) -> None:
    """A service and its tasks, as plain text."""
    from edgevit.runtime.watching import lines_of

    for line in lines_of(seen):
        click.echo(line)
    output.print_table([_HEADS, *map(_row, seen.tasks)])


def _row(task: TaskView) -> list[str]:
    return [
        task.device,
        task.task,
        f"{task.runs_per_second:.3g}",
        *map(_milliseconds, (task.now, task.p50, task.planned, task.waits)),
        str(task.queue),
        f"{task.received_per_second / 1e3:.0f}",
        f"{task.sent_per_second / 1e3:.0f}",
        str(task.refused),
    ]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1e3 * value:.3g}"


def _watch(url: str, first: Look, interval: float) -> None:
    """Draw again after every interval, until interrupted; a service that is away is waited for."""
    from rich.console import Console
    from rich.live import Live

    from edgevit.errors import EdgevitError
    from edgevit.runtime.watching import look, view

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    before, seen, problem = first, view(first, first), ""
    with Live(_drawn(seen, problem), console=Console(), auto_refresh=False) as live:
        while not stopped.wait(interval):
            try:
                after = look(url)
                before, seen, problem = after, view(before, after), ""
            except EdgevitError as error:
                problem = str(error)
            live.update(_drawn(seen, problem), refresh=True)


def _drawn(seen: ServiceView, problem: str) -> Group:
    """The view for a terminal; slower than planned is red, something that waits or was refused yellow."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from edgevit.runtime.watching import lines_of

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if place < 2 else "right", no_wrap=True)
    for task in seen.tasks:
        row = [Text(cell) for cell in _row(task)]
        if task.planned is not None and task.p50 is not None and task.p50 > task.planned:
            row[_HEADS.index("p50")].stylize("red")
        if task.refused:
            row[_HEADS.index("refused")].stylize("yellow")
        table.add_row(*row)
    lines = [Text(line) for line in lines_of(seen)]
    return Group(*lines, table, *([Text(problem, style="red")] if problem else []))
