"""``edgevit plan``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output

if TYPE_CHECKING:
    from edgevit.planning.plan_file import ComparedEntry, PlanEntry, PlanFile, TaskEntry

# Devices and losses that are named; a plan file has all of them.
_SHOWN = 20


class _Planning(click.Command):
    """Plans, and with `emit` as its first word, writes the files of a plan."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command that is meant."""
        if args[:1] == ["emit"]:
            from edgevit.cli.emit import command as emit

            return emit.make_context(f"{info_name} emit", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(
    cls=_Planning, short_help="Which device runs what: the best plan, with a proof, for several devices."
)
@click.argument("source", metavar="[X.pt2|MANIFEST]", required=False)
@click.option("--devices", metavar="FILE", help="YAML of devices, how they are connected, and their roles.")
@click.option("--local", type=int, metavar="N", help="Plan for N worker processes on this machine instead.")
@click.option(
    "--pipeedge", metavar="DIR", help="Plan what PipeEdge's models.yml, device_types.yml and devices.yml say."
)
@click.option("--model", metavar="NAME", help="One of several models in PipeEdge's files.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images in one item (PipeEdge)."
)
@click.option(
    "--objective",
    type=click.Choice(["latency", "throughput", "energy"]),
    default="throughput",
    show_default=True,
    help="What is to be best.",
)
@click.option(
    "--mode", metavar="NAME", help="Only single, replicas, pipeline or ensemble.  [default: the best of all]"
)
@click.option(
    "--costs", metavar="FILE", help="Measured seconds of each segment on each device (YAML or CSV)."
)
@click.option(
    "--from-run",
    metavar="FILE",
    help="Plan by the times and lines that `edgevit run --save` measured of this model.",
)
@click.option("--max-memory", metavar="BYTES", help="That no device may exceed, such as 500MB.")
@click.option(
    "--wire",
    default="fp32",
    show_default=True,
    help="Precisions in which activations may be sent: fp32,fp16,int8.",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Plans, the best first."
)
@click.option(
    "-o",
    "--output",
    "output_file",
    metavar="FILE",
    help="Plan file (YAML); its report (HTML) is put beside it.",
)
@options.force
@options.reporting
def command(
    *,
    source: str | None,
    devices: str | None,
    local: int | None,
    pipeedge: str | None,
    model: str | None,
    batch: int,
    output_file: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Plan a Program as a pipeline, as replicas or on one device; a split's parts as an ensemble as well.

    `edgevit plan emit PLAN.yaml --for kserve|triton|compose|systemd` writes a plan as files for these.
    """
    output.prepare(as_json=as_json, quiet=quiet)
    from edgevit.cli.replanned import print_changes
    from edgevit.files import check_output
    from edgevit.planning import plans

    path = None if output_file is None else options.yaml_output("output", output_file, force=force)
    if path is not None:
        check_output(path.with_suffix(".html"), force=force)
    said = _options(**choices)
    if pipeedge is not None:
        if source is not None or devices is not None or local is not None:
            raise click.UsageError("--pipeedge says model and devices: give neither beside it")
        if said.from_run is not None:
            raise click.UsageError(
                "--from-run is of a plan that ran; what --pipeedge describes cannot be run"
            )
        plan = plans.plan_pipeedge(pipeedge, model=model, batch=batch, options=said)
    elif source is None:
        raise click.UsageError("give a Program (.pt2), a split's manifest.json, or --pipeedge DIR")
    else:
        plan = plans.plan(source, devices=devices, local=local, options=said)
    if path is not None:
        _write(plan, path)
    if as_json:
        data = plan.model_dump(mode="json", exclude_defaults=True)
        output.print_json({"bottleneck_s": plan.plan.bottleneck_seconds, **data})
        return
    print_plan(plan)
    if said.from_run is not None:
        print_changes(plan, said.from_run)
    if path is not None:
        click.echo(f"{output.TICK} {path}, {path.with_suffix('.html').name}")
        click.echo(f"next: edgevit simulate {path} --requests 1000")


def _options(
    *,
    objective: Any,
    mode: Any,
    costs: str | None,
    from_run: str | None,
    max_memory: str | None,
    wire: str,
    top: int,
) -> Any:
    from edgevit.planning.plans import PlanOptions

    return PlanOptions(
        objective=objective,
        max_memory=math.inf if max_memory is None else options.amount_of("max-memory", max_memory),
        top=top,
        wires=tuple(wire.split(",")),
        mode=mode,
        costs=None if costs is None else Path(costs),
        from_run=None if from_run is None else Path(from_run),
    )


def _write(plan: PlanFile, path: Path) -> None:
    from edgevit.report.planning import render

    plan.write(path)
    from edgevit.files import staged_file

    with staged_file(path.with_suffix(".html")) as staged:
        staged.write_text(render(plan), encoding="utf-8")


def print_plan(plan: PlanFile) -> None:
    """The best plan as a table, what it is compared with, and what is done without a device."""
    best = plan.plan
    click.echo(f"{plan.model} on {len(plan.devices)} devices, for {plan.objective}")
    click.echo(plan.verdict)
    click.echo(f"bottleneck_s: {best.bottleneck_seconds!r}")
    click.echo(
        f"latency {seconds(best.latency_seconds)}   {plan.items / best.bottleneck_seconds:.4g} images/s"
        if best.bottleneck_seconds
        else f"latency {seconds(best.latency_seconds)}"
    )
    click.echo(_certificate(best))
    output.print_table(_table(plan))
    if plan.comparison:
        click.echo("compared:")
        output.print_table([_compared(each) for each in plan.comparison])
    for place, other in enumerate(plan.alternatives, start=2):
        click.echo(f"{place}. {other.mode} on {_devices(other)}: {_figures(other)}")
    _print_losses(plan)
    for note in plan.notes:
        click.echo(f"note: {note}")


def seconds(value: float) -> str:
    """Seconds as people write them.

    >>> seconds(0.0123), seconds(2.5)
    ('12.3 ms', '2.5 s')
    """
    return f"{value:.4g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _certificate(plan: PlanEntry) -> str:
    if plan.optimal:
        return "proven: no plan of this mode is better"
    return f"not proven the best: none is better than {plan.bound:.6g}, this one has {plan.value:.6g}"


def _table(plan: PlanFile) -> list[list[str]]:
    shown = plan.plan.tasks[:_SHOWN]
    rows = [["device", "runs", "share", "receives", "computes", "sends", "as"], *map(_row, shown)]
    if len(plan.plan.tasks) > len(shown):
        rows.append([f"and {len(plan.plan.tasks) - len(shown)} more", *[""] * 6])
    return rows


def _row(task: TaskEntry) -> list[str]:
    segments = f"segments {task.first} to {task.last}"
    return [
        task.device,
        segments if task.parts is None else ", ".join(task.parts),
        f"{100 * task.share:.3g} %",
        f"{task.received.bytes:,.0f} B {task.received.precision}, {seconds(task.receive_seconds)}",
        seconds(task.seconds),
        f"{task.sent.bytes:,.0f} B {task.sent.precision}, {seconds(task.send_seconds)}",
        f"{task.format} {task.precision}",
    ]


def _compared(entry: ComparedEntry) -> list[str]:
    if entry.bottleneck_seconds is None or entry.latency_seconds is None:
        return [entry.mode, "impossible", "", "", entry.reason or ""]
    joules = "" if entry.joules is None else f"{entry.joules:.4g} J"
    return [
        entry.mode,
        f"{entry.devices} device{'s' if entry.devices > 1 else ''}",
        f"bottleneck {seconds(entry.bottleneck_seconds)}",
        f"latency {seconds(entry.latency_seconds)}",
        joules,
    ]


def _devices(plan: PlanEntry) -> str:
    names = [task.device for task in plan.tasks]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _figures(plan: PlanEntry) -> str:
    return f"bottleneck {seconds(plan.bottleneck_seconds)}, latency {seconds(plan.latency_seconds)}"


def _print_losses(plan: PlanFile) -> None:
    for loss in [loss for loss in plan.losses if not loss.unchanged][:_SHOWN]:
        if loss.like is not None:
            click.echo(f"without {loss.device}: as without {loss.like}")
        elif loss.plan is None:
            click.echo(f"without {loss.device}: no plan ({loss.reason})")
        else:
            click.echo(
                f"without {loss.device}: {loss.plan.mode} on {_devices(loss.plan)}: {_figures(loss.plan)}"
            )
