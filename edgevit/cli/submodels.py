"""What `edgevit compress` does with a nested Program: a submodel by name, or the best within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from edgevit.cli import options, output
from edgevit.cli.remote import remote_of

if TYPE_CHECKING:
    from edgevit.measured_budgets import Budgeted

# Of each option, what has the budget.
_BUDGETS: dict[str, Any] = {"flops-budget": "macs", "size-budget": "bytes", "latency-budget": "latency"}


@dataclass(frozen=True)
class Timed:
    """Where latencies count: options of the command, None where they were not given."""

    device: str | None
    python: str | None
    ssh_config: str | None
    remote_folder: str | None
    benchmark_model: str | None

    def check(self, asked: Mapping[str, str | None]) -> None:
        """Refuse any of them where no latency is measured."""
        option = next((field.name for field in fields(self) if getattr(self, field.name) is not None), None)
        if option is not None and asked["latency-budget"] is None:
            raise click.UsageError(f"--{option.replace('_', '-')}: says where --latency-budget is measured")
        if option is not None and self.device is None:
            raise click.UsageError(f"--{option.replace('_', '-')}: is for a device; give --device as well")

    def given(self) -> dict[str, Any]:
        """As a search takes them."""
        if self.device is None:
            return {}
        return {
            "device": self.device,
            "remote": remote_of(self.python, self.ssh_config, self.remote_folder, self.benchmark_model),
        }


def check_alone(asked: Mapping[str, str | None], others: Mapping[str, Any]) -> None:
    """Refuse more than one way to say which submodel, and what has no meaning with one."""
    option, *more = (name for name, value in asked.items() if value is not None)
    if more:
        raise click.UsageError(f"--{option} with --{more[0]}: give one of them")
    other = next((name.replace("_", "-") for name, value in others.items() if value not in (None, ())), None)
    if other is not None:
        raise click.UsageError(f"--{other} with --{option}: take the submodel out first, then compress that")


def fitting_options(asked: Mapping[str, str | None]) -> tuple[str, ...]:
    """Options that a search within a budget shares with quantization."""
    return ("images", "seed", "to") if asked["latency-budget"] is not None else ("images", "seed")


def extract(program: str, submodel: str, given: Mapping[str, Any], *, as_json: bool, **where: Any) -> None:
    """Take a submodel out of a nested Program, and say what it costs."""
    if given["calib"] is None and (given["images"], given["seed"]) != (None, None):
        raise click.UsageError("--images and --seed of a submodel say how it is fitted: give --calib as well")
    from edgevit.measured_submodels import extract_file, summary

    result = extract_file(program, submodel, **_said(given), **where)
    if as_json:
        output.print_json(summary(result))
        return
    (parameters, fewer), (macs, less) = result.parameters, result.macs
    click.echo(
        f"{output.TICK} {result.path}  {fewer / 1e6:.3g} of {parameters / 1e6:.3g} million parameters, "
        f"{less / 1e6:.4g} of {macs / 1e6:.4g} million multiply-accumulates{_done(given)}"
    )
    _print_next(result.path)


def search(
    program: str,
    asked: Mapping[str, str | None],
    given: Mapping[str, Any],
    timed: Timed,
    *,
    as_json: bool,
    **where: Any,
) -> None:
    """Find the best submodel of a nested Program within a budget, and show what simpler ways find."""
    option, text = next((name, value) for name, value in asked.items() if value is not None)
    of = _BUDGETS[option]
    amount = (options.duration_of if of == "latency" else options.amount_of)(option, text)
    if given["calib"] is None:
        raise click.UsageError("--calib is missing: a folder of images to judge submodels on")
    from edgevit.measured_budgets import search_file, summary

    result = search_file(program, amount, of=of, **_said(given), **timed.given(), **where)
    if as_json:
        output.print_json(summary(result))
        return
    _print_found(result)


def _print_found(result: Budgeted) -> None:
    """What was found at any budget, what is written, and where to see more."""
    from edgevit.report.budget import UNITS

    unit = UNITS[result.of]
    for one in result.frontier:
        click.echo(f"  {one.name:>13}  {unit.words(one.cost):>10}  {one.divergence:.3g} nats")
    click.echo(f"within {unit.words(result.budget)}:")
    for one in result.candidates:
        click.echo(f"  {one.name:>13}  {unit.words(one.cost):>10}  {one.divergence:.3g} nats")
    found = next(one for one in result.candidates if one.name == "search")
    click.echo(
        f"{output.TICK} {result.path}  {unit.words(found.cost)} of {unit.words(result.whole)}, "
        f"{result.evaluations} submodels judged on {result.images} images; its layers fitted: "
        f"{result.divergence:.3g} nats"
    )
    if result.precision is not None:
        click.echo(f"  {result.precision}, left float: {', '.join(found.kept_float) or 'none'}")
    latency = result.latency
    if latency is not None:
        how = "predicted" if latency.predicted else "measured"
        within = output.interval(*(latency.interval_ms or (None, None)))
        click.echo(
            f"  {how}: p50 {latency.p50_ms:.2f} ms{within} in {latency.format} on {latency.device}, "
            f"one thread; the whole {latency.whole_ms:.2f} ms"
        )
        if latency.warning is not None:
            click.echo(f"  warning: {latency.warning}")
    click.echo(f"report: {result.page}")
    _print_next(result.path)


def _done(given: Mapping[str, Any]) -> str:
    return "; it computes what its parent does" if given["calib"] is None else ", its layers fitted to it"


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given; the rest keeps its defaults."""
    return {name: value for name, value in given.items() if value is not None}


def _print_next(path: Any) -> None:
    click.echo(f"next: edgevit export {path} --to onnx -o {path.with_suffix('')}-onnx")
