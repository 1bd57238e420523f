"""``edgevit profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.profiling import LatencyProfile


@click.command(short_help="Latency and memory of an artefact on a device.")
@click.argument("artefact")
@click.option("--device", default="local", show_default=True, help="Where to run it.")
@options.threads
@click.option("--runs", type=int, default=50, show_default=True, help="Fewest timed runs.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Least time spent on timed runs.")
@options.reporting
def command(
    *, artefact: str, device: str, threads: int | None, runs: int, seconds: float, as_json: bool, quiet: bool
) -> None:
    """Time ARTEFACT in a fresh process: cold load, first inference, warm-up, then percentiles."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.profiling import profile

    result = profile(artefact, device=device, threads=threads, runs=runs, seconds=seconds)
    if as_json:
        output.print_json(result.summary())
        return
    print_profile(result)


def print_profile(result: LatencyProfile) -> None:
    """The figures, with what they were measured on beside them."""
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    click.echo(f"{result.artefact} on {result.device} ({result.machine}, {result.cores} cores)")
    click.echo(f"  {result.runtime}, {result.delegate}, {threads}, input {list(result.input_shape)}")
    click.echo(
        f"  p50 {result.percentile(50):.2f} ms   p90 {result.percentile(90):.2f}   "
        f"p99 {result.percentile(99):.2f}   "
        f"mean {result.mean_ms:.2f} +- {result.std_ms:.2f}   ({result.runs} runs)"
    )
    click.echo(
        f"  load {result.load_ms:.0f} ms   first {result.first_ms:.1f} ms   "
        f"peak memory {result.peak_memory_mb:.0f} MB (the model's share {result.working_set_mb:.0f} MB)"
    )
    if result.warning:
        click.echo(f"  warning: {result.warning}")
