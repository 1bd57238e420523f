"""``edgevit profile``."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevit.cli import options, output
from edgevit.cli.profiled import print_profile
from edgevit.cli.remote import remote, remote_of

if TYPE_CHECKING:
    from edgevit.profiling import LatencyProfile


@click.command(short_help="Latency and memory of an artefact on a device.")
@click.argument("artefact")
@click.option(
    "--device", default="local", show_default=True, help="local, ssh://user@host[:port] or adb://SERIAL."
)
@click.option("--runtime", metavar="NAME", help="onnxruntime or opencv (ONNX).  [default: onnxruntime]")
@click.option(
    "--delegate", metavar="NAME", help="ONNX Runtime: a provider; LiteRT: xnnpack, none, or a library's path."
)
@options.threads
@click.option("--cpus", metavar="LIST", help="The only cores to use, such as 4-7 or 0,2.")
@click.option("--runs", type=int, default=50, show_default=True, help="Fewest timed runs.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Least time spent on timed runs.")
@click.option(
    "--sustained", type=float, default=0.0, metavar="MINUTES", help="Then load without a pause for so long."
)
@click.option("--no-operators", is_flag=True, help="Do not time single operators.")
@remote
@click.option("--csv", "csv_file", metavar="FILE", help="Write every sample.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page with plots.")
@options.force
@options.reporting
def command(
    *,
    artefact: str,
    device: str,
    runtime: str | None,
    delegate: str | None,
    threads: int | None,
    cpus: str | None,
    runs: int,
    seconds: float,
    sustained: float,
    no_operators: bool,
    python: str | None,
    ssh_config: str | None,
    remote_folder: str | None,
    benchmark_model: str | None,
    csv_file: str | None,
    html_file: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time ARTEFACT in a fresh process: cold load, first inference, warm-up, then percentiles."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.files import check_output
    from edgevit.profiling import UnfinishedProfileError, profile

    files = {"csv": csv_file, "html": html_file}
    for file in filter(None, files.values()):
        check_output(Path(file), force=force)
    where = remote_of(python, ssh_config, remote_folder, benchmark_model)
    ended_early = None
    try:
        with _interrupts_raise():
            result = profile(
                artefact,
                device=device,
                runtime=runtime,
                delegate=delegate,
                threads=threads,
                cpus=None if cpus is None else cpus_of(cpus),
                runs=runs,
                seconds=seconds,
                sustained=sustained,
                operators=not no_operators,
                remote=where,
            )
    except UnfinishedProfileError as error:
        ended_early, result = error, error.profile
    _write(result, files)
    _print(result, as_json=as_json)
    if ended_early is not None:
        raise ended_early


@contextlib.contextmanager
def _interrupts_raise() -> Iterator[None]:
    """Ctrl-C and a request to end reach the measurement, which tidies up and keeps what it has."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def cpus_of(text: str) -> list[int]:
    """What ``--cpus`` names.

    Raises:
        UsageError: when it names none.
    """
    found: list[int] = []
    for word in text.split(","):
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", word.strip())
        cores = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        if not cores:
            raise click.UsageError(f"--cpus {text}: is no list of cores; write 4-7 or 0,2")
        found += cores
    return sorted({*found})


def _print(result: LatencyProfile, *, as_json: bool) -> None:
    if as_json:
        output.print_json(result.summary())
    else:
        print_profile(result)


def _write(result: LatencyProfile, files: dict[str, str | None]) -> None:
    """The files that were asked for, whole or not at all."""
    from edgevit.files import staged_file
    from edgevit.report.profiling import render, samples_csv

    for kind, file in files.items():
        if file is not None:
            with staged_file(Path(file)) as staged:
                text = samples_csv(result) if kind == "csv" else render(result.summary())
                staged.write_text(text, encoding="utf-8")
