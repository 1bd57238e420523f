"""A profile as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgevit.profiling import LatencyProfile
    from edgevit.profiling.measurements import Conditions

_KINDS_SHOWN, _FALLBACKS_SHOWN = 8, 6


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
    whole = result.operators.whole_ms or result.typical_ms
    yield f"  time of operators: {total:.2f} ms together, {share:.0f} % of {whole:.2f} ms in turns with them"
    for kind, count, ms in result.operators.by_kind()[:_KINDS_SHOWN]:
        yield f"    {kind:<24} {count:>5}  {ms:>9.3f} ms  {100 * ms / total if total else 0:>5.1f} %"


def _sustained_lines(result: LatencyProfile) -> Iterator[str]:
    if result.sustained is not None:
        load = result.sustained
        hottest = "" if load.hottest_c is None else f", at most {load.hottest_c:.0f} C"
        yield (
            f"  sustained {load.duration:.0f} s: {100 * load.retention:.1f} % of its speed retained "
            f"(last {load.window:.1f} s over the first{hottest})"
        )
