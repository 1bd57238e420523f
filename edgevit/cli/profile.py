"""``edgevit profile``."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgevit.cli import options, output
from edgevit.cli.profiled import print_profile
from edgevit.cli.remote import remote, remote_of

if TYPE_CHECKING:
    from edgevit.profiling import LatencyProfile


@click.command(short_help="Latency and memory of an artefact on a device.")
@click.argument("artefact", required=False)
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
@click.option("--suite", is_flag=True, help="Measure the machine itself, by models of its own.")
@click.option(
    "-o", "--output", "profile_file", metavar="FILE.yaml", help="Device profile to write (--suite)."
)
@click.option("--formats", metavar="LIST", help="onnx and tflite (--suite).  [default: both]")
@click.option("--models", metavar="LIST", help="Some of the suite's models alone.")
@click.option("--link", metavar="ssh://HOST", help="Measure the line to another host as well (--suite).")
@options.force
@options.reporting
def command(
    *,
    artefact: str | None,
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
    suite: bool,
    profile_file: str | None,
    formats: str | None,
    models: str | None,
    link: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time ARTEFACT in a fresh process: cold load, first inference, warm-up, then percentiles.

    With --suite and no artefact, measure a machine: operators of all kinds and sizes in its runtimes, its
    memory; and write the device profile by which `edgevit predict` and `edgevit plan` know how fast it is.
    """
    output.prepare(as_json=as_json, quiet=quiet)
    _check_choices(suite=suite)
    where = remote_of(python, ssh_config, remote_folder, benchmark_model)
    if artefact is None:
        from edgevit.cli.suite import measure_machine

        with _interrupts_raise():
            measure_machine(
                file=profile_file,
                device=device,
                formats=formats,
                models=models,
                threads=threads,
                link=link,
                remote=where,
                force=force,
                as_json=as_json,
            )
        return
    choices = {
        "device": device,
        "runtime": runtime,
        "delegate": delegate,
        "threads": threads,
        "cpus": None if cpus is None else cpus_of(cpus),
        "runs": runs,
        "seconds": seconds,
        "sustained": sustained,
        "operators": not no_operators,
        "remote": where,
    }
    _profile(artefact, choices, {"csv": csv_file, "html": html_file}, force=force, as_json=as_json)


# What is said of an artefact, and what of a machine.
_OF_ARTEFACT = (
    *("artefact", "runtime", "delegate", "cpus", "runs", "seconds", "sustained", "no_operators"),
    *("benchmark_model", "csv_file", "html_file"),
)
_OF_SUITE = ("profile_file", "formats", "models", "link")


def _check_choices(*, suite: bool) -> None:
    """Refuse what does not belong together.

    Raises:
        UsageError: naming it.
    """
    context = click.get_current_context()
    given = {
        parameter.opts[0] if parameter.param_type_name == "option" else "ARTEFACT": parameter.name
        for parameter in context.command.params
        if parameter.name is not None
        and context.params.get(parameter.name) is not None
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
    for option, name in given.items():
        if suite and name in _OF_ARTEFACT:
            raise click.UsageError(
                f"{option}: --suite measures the machine, with models of its own; leave it out"
            )
        if not suite and name in _OF_SUITE:
            raise click.UsageError(
                f"{option}: only --suite writes a device profile; add --suite or leave it out"
            )
    if not suite and "ARTEFACT" not in given:
        raise click.UsageError("name the ARTEFACT to profile, or measure the machine itself with --suite")


def _profile(
    artefact: str, choices: dict[str, Any], files: dict[str, str | None], *, force: bool, as_json: bool
) -> None:
    """Profile, write and print, however early it ends."""
    from edgevit.files import check_output
    from edgevit.profiling import UnfinishedProfileError, profile

    for file in filter(None, files.values()):
        check_output(Path(file), force=force)
    ended_early = None
    try:
        with _interrupts_raise():
            result = profile(artefact, **choices)
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
