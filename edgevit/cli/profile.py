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

if TYPE_CHECKING:
    from edgevit.profiling import LatencyProfile
    from edgevit.profiling.measurements import Conditions

_KINDS_SHOWN, _FALLBACKS_SHOWN = 8, 6


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
@click.option(
    "--python", default="python3", show_default=True, metavar="PATH", help="Of the device (ssh), ~ allowed."
)
@click.option("--ssh-config", metavar="FILE", help="Instead of ~/.ssh/config.")
@click.option("--remote-folder", metavar="DIR", help="Of the device, for files while they run.")
@click.option("--benchmark-model", metavar="FILE", help="LiteRT's tool, built for the device (adb).")
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
    python: str,
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
    from edgevit.files import check_output, existing_file
    from edgevit.profiling import Remote, UnfinishedProfileError, profile

    files = {"csv": csv_file, "html": html_file}
    for file in filter(None, files.values()):
        check_output(Path(file), force=force)
    remote = Remote(
        python,
        remote_folder,
        None if ssh_config is None else existing_file(ssh_config, "--ssh-config"),
        None if benchmark_model is None else Path(benchmark_model),
    )
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
                remote=remote,
            )
    except UnfinishedProfileError as error:
        ended_early, result = error, error.profile
    _write(result, files)
    if as_json:
        output.print_json(result.summary())
    else:
        print_profile(result)
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


def _write(result: LatencyProfile, files: dict[str, str | None]) -> None:
    """The files that were asked for, whole or not at all."""
    from edgevit.files import staged_file
    from edgevit.report.profiling import render, samples_csv

    for kind, file in files.items():
        if file is not None:
            with staged_file(Path(file)) as staged:
                text = samples_csv(result) if kind == "csv" else render(result.summary())
                staged.write_text(text, encoding="utf-8")


def print_profile(result: LatencyProfile) -> None:
    """The figures, with what they were measured on beside them."""
    for line in _lines(result):
        click.echo(line)


def _lines(result: LatencyProfile) -> Iterator[str]:
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    board = f"{result.board}, " if result.board else ""
    yield f"{result.artefact} on {result.device} ({board}{result.machine}, {result.cores} cores)"
    if result.partial:
        yield f"  PARTIAL: {result.partial}"
    shape = list(result.input_shape)
    yield f"  {result.runtime}, {_ran_on(result)}, {threads}{_bound(result)}, input {shape}"
    yield f"  {_percentiles(result)}   ({result.runs} runs)"
    peak = "not known" if result.peak_memory_mb is None else f"{result.peak_memory_mb:.0f} MB"
    share = "" if result.working_set_mb is None else f" (the model's share {result.working_set_mb:.0f} MB)"
    yield f"  load {result.load_ms:.0f} ms   first {result.first_ms:.1f} ms   peak memory {peak}{share}"
    if result.warning:
        yield f"  warning: {result.warning}"
    yield from _state_lines(result)
    yield from _placed_lines(result)
    yield from _operator_lines(result)
    yield from _sustained_lines(result)


def _ran_on(result: LatencyProfile) -> str:
    if result.requested in (None, result.delegate):
        return result.delegate
    return f"{result.delegate} (asked for {result.requested})"


def _bound(result: LatencyProfile) -> str:
    """The cores, where they are not all."""
    if result.affinity is None or len(result.affinity) == result.cores:
        return ""
    return f" on cores {','.join(map(str, result.affinity))}"


def _percentiles(result: LatencyProfile) -> str:
    statistics = result.statistics
    found = [(name, getattr(statistics, f"{name}_ms")) for name in ("p50", "p90", "p95", "p99")]
    figures = [
        f"{name} {value:.2f}{' ms' if index == 0 else ''}"
        for index, (name, value) in enumerate(item for item in found if item[1] is not None)
    ]
    return "   ".join([*figures, f"mean {result.mean_ms:.2f} +- {result.std_ms:.2f}"])


def _state_lines(result: LatencyProfile) -> Iterator[str]:
    states = [state for state in (result.before, result.after) if state is not None]
    found = " -> ".join(filter(None, map(_state, states)))
    if found:
        yield f"  conditions: {found}"
    if result.energy is not None:
        one = result.energy.millijoules(result.runs)
        yield f"  energy {one:.3g} mJ a run, {result.energy.watts:.3g} W ({result.energy.source})"


def _state(state: Conditions) -> str:
    words = [
        None if state.hottest_c is None else f"{state.hottest_c:.0f} C",
        None if state.mean_mhz is None else f"{state.mean_mhz:.0f} MHz",
        ", ".join(state.governors or ()) or None,
    ]
    return " ".join(filter(None, words))


def _placed_lines(result: LatencyProfile) -> Iterator[str]:
    if result.placed is None:
        return
    takes = ", ".join(f"{unit} {result.placed.count(unit)}" for unit in result.placed.units)
    yield f"  ops: {result.placed.total}, run by {takes}"
    for item in result.placed.fell_back[:_FALLBACKS_SHOWN]:
        yield f"    {item.count} {item.kind} on {item.unit}: {item.reason}"
    if len(result.placed.fell_back) > _FALLBACKS_SHOWN:
        yield f"    and {len(result.placed.fell_back) - _FALLBACKS_SHOWN} kinds more (--json)"


def _operator_lines(result: LatencyProfile) -> Iterator[str]:
    if result.operators is None:
        if result.operators_reason:
            yield f"  time of operators: {result.operators_reason}"
        return
    total, share = result.operators.total_ms, 100 * (result.operators_share or 0)
    yield f"  time of operators: {total:.2f} ms together, {share:.0f} % of the whole"
    for kind, count, ms in result.operators.by_kind()[:_KINDS_SHOWN]:
        yield f"    {kind:<24} {count:>5}  {ms:>9.3f} ms  {100 * ms / total if total else 0:>5.1f} %"


def _sustained_lines(result: LatencyProfile) -> Iterator[str]:
    if result.sustained is not None:
        load = result.sustained
        hottest = "" if load.hottest_c is None else f", at most {load.hottest_c:.0f} C"
        yield (
            f"  sustained {load.duration / 60:.1f} min: {100 * load.retention:.1f} % of its speed retained "
            f"(last {load.window:.0f} s over the first {load.window:.0f} s{hottest})"
        )
