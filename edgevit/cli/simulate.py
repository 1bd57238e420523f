"""``edgevit simulate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgevit.cli import options, output
from edgevit.cli.plan import seconds

if TYPE_CHECKING:
    from edgevit.planning.plan_file import PlanFile
    from edgevit.planning.simulation import Simulation

# Of what was busiest.
_SHOWN = 8


@click.command(short_help="A plan at work, event by event: queues, shared lines, a lost device.")
@click.argument("plan")
@click.option("--requests", type=click.IntRange(min=1), default=1000, show_default=True, help="How many.")
@click.option(
    "--rate", type=float, metavar="R", help="Requests in a second, at random times.  [default: all at once]"
)
@click.option(
    "--jitter",
    type=float,
    default=0.0,
    show_default=True,
    help="Standard deviation of times over their mean.",
)
@click.option("--lose", metavar="DEVICE", help="A device that is lost.")
@click.option("--lose-at", type=float, default=0.0, metavar="SECONDS", show_default=True, help="When it is.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@options.reporting
def command(
    *,
    plan: str,
    requests: int,
    rate: float | None,
    jitter: float,
    lose: str | None,
    lose_at: float,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Let PLAN, a file that `edgevit plan` wrote, answer requests: none is run, times are the plan's."""
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.planning.plan_file import PlanFile
    from edgevit.planning.simulation import Scenario, simulate

    scenario = Scenario(requests, rate, jitter, lose, lose_at, seed)
    read = PlanFile.read(plan)
    result = simulate(read, scenario)
    if as_json:
        output.print_json(_summary(result))
        return
    print_simulation(read, result)


def _summary(result: Simulation) -> dict[str, object]:
    percentiles = {f"p{share}": result.percentile(share) for share in (50, 90, 99)} if result.answered else {}
    return {
        "requests": result.requests,
        "answered": result.answered,
        "replayed": result.replayed,
        "seconds": result.seconds,
        "answers_per_second": result.throughput,
        "latency_seconds": percentiles,
        "loads": result.loads,
    }


def print_simulation(plan: PlanFile, result: Simulation) -> None:
    """What came of it, and what was busiest."""
    replayed = f", {result.replayed} of them replayed" if result.replayed else ""
    click.echo(f"{result.answered} of {result.requests} answered in {seconds(result.seconds)}{replayed}")
    if not result.answered:
        return
    limit = plan.plan.bottleneck_seconds
    planned = f" (the plan's limit is {1 / limit:.4g})" if limit else ""
    click.echo(f"{result.throughput:.4g} answers/s{planned}")
    shares = "   ".join(f"p{share} {seconds(result.percentile(share))}" for share in (50, 90, 99))
    click.echo(f"latency {shares} (alone {seconds(plan.plan.latency_seconds)})")
    output.print_table(
        [
            [load.what, load.name, f"{100 * load.busy:.1f} % busy", f"{load.longest_queue} waited at most"]
            for load in result.loads[:_SHOWN]
        ]
    )
