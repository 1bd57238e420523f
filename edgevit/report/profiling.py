"""The report of a profile: one self-contained HTML page, and its samples as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgevit.profiling.latency import LatencyProfile
from edgevit.report import charts, figures
from edgevit.report.pages import rendered

_TEMPLATE = "profiling.html.j2"

# A chart is to show what takes the time; the table under it has the rest.
_ROWS_DRAWN = 12


def render(summary: Mapping[str, Any]) -> str:
    """The page of a profile.

    Args:
        summary: `LatencyProfile.summary`, or the JSON that was made of it.
    """
    operators = summary["operators"]
    return rendered(
        _TEMPLATE,
        summary=summary,
        place=place(summary),
        timed=_timed_charts(summary),
        warm_up=charts.warm_up_strip(summary["first_ms"], summary["warm_up_ms"], _typical(summary)),
        typical=_typical(summary),
        kinds=None if operators is None else _bars(operators["by_kind"]),
        blocks=None if operators is None else _bars(_named(operators["by_block"])),
        load=None if summary["sustained"] is None else _load_charts(summary["sustained"]["seconds"]),
        conditions=[(when, _state(summary[when])) for when in ("before", "after")],
    )


def place(summary: Mapping[str, Any]) -> str:
    """What it was measured on."""
    where = "this machine" if summary["device"] == "local" else summary["device"]
    kind = summary["board"] or summary["machine"]
    return f"{where} ({kind}, {figures.counted(summary['cores'], 'core')})"


def samples_csv(profile: LatencyProfile) -> str:
    """Every time in milliseconds, one a row: the first run, warm-up, timed runs, and of sustained load the
    median of each second."""  # noqa: D205, D209 - one sentence
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("phase", "number", "ms"))
    seconds = () if profile.sustained is None else profile.sustained.seconds
    phases: dict[str, Sequence[float]] = {
        "first": (profile.first_ms,),
        "warm-up": profile.warm_up_ms,
        "timed": profile.samples_ms,
        "sustained second": [second.p50_ms for second in seconds],
    }
    for phase, times in phases.items():
        writer.writerows((phase, number, ms) for number, ms in enumerate(times, 1))
    return stream.getvalue()


def _typical(summary: Mapping[str, Any]) -> float:
    median: float | None = summary["p50_ms"]
    mean: float = summary["mean_ms"]
    return mean if median is None else median


def _timed_charts(summary: Mapping[str, Any]) -> tuple[Markup, Markup] | None:
    """How the runs' times are distributed, and the same in their order."""
    samples = summary["samples_ms"]
    if not samples:
        return None
    marked = [(name, summary[f"{name}_ms"]) for name in ("p50", "p90", "p99")]
    return charts.latency_histogram(samples, marked), charts.over_time("Timed runs", "ms", samples, "run")


def _bars(rows: Sequence[Sequence[Any]]) -> Markup:
    drawn = [
        (f"{name}, {figures.counted(count, 'operator')}", ms, figures.milliseconds(ms))
        for name, count, ms in rows[:_ROWS_DRAWN]
    ]
    return charts.time_bars(drawn)


def _named(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [[name or "before the first weights", count, ms] for name, count, ms in rows]


def _load_charts(seconds: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Median time, temperature and clock over the load, as far as they could be read."""
    wanted = (
        ("Median of each second, ms", "p50_ms", "ms"),
        ("Temperature, °C", "temperature_c", "°C"),
        ("Mean clock of the cores, MHz", "mhz", "MHz"),
    )
    found = []
    for title, key, unit in wanted:
        values = [second[key] for second in seconds if second[key] is not None]
        if values:
            found.append((title, charts.over_time(title, unit, values, "second")))
    return found


def _state(conditions: Mapping[str, Any] | None) -> str:
    """Temperatures, clocks and governors in a line."""
    if conditions is None:
        return "not known"
    zones = [f"{name} {value:.1f} °C" for name, value in (conditions["temperatures_c"] or {}).items()]
    clocks = conditions["mhz"] or ()
    mhz = (
        [f"{figures.counted(len(clocks), 'core')} at {min(clocks):.0f} to {max(clocks):.0f} MHz"]
        if clocks
        else []
    )
    return ", ".join([*zones, *mhz, *(conditions["governors"] or ())]) or "not readable"
