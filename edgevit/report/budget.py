"""The report of a search for the best submodel within a budget as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edgevit.report import charts, figures
from edgevit.report.charts import Series
from edgevit.report.figures import NBSP
from edgevit.report.pages import rendered

_TEMPLATE = "budget.html.j2"
# Below this a divergence is rounding: the whole itself has no place on a logarithmic scale.
_LEAST = 1e-6


@dataclass(frozen=True)
class Unit:
    """What a cost is in words.

    Attributes:
        noun: what is counted.
        scale: of what is stored, one of the unit.
        unit: what follows a number.
    """

    noun: str
    scale: float
    unit: str

    def words(self, cost: int) -> str:
        """A cost with its unit."""
        return f"{figures.digits(cost * self.scale)}{NBSP}{self.unit}"


UNITS: dict[str, Unit] = {
    "macs": Unit("Multiply-accumulates for one image", 1e-6, "M"),
    "bytes": Unit("Size of the weights", 1e-6, "MB"),
    "latency": Unit("Latency as its choices add up", 1e-6, "ms"),
}

#: How submodels are found: the glyph of each way, and what it is.
WAYS: dict[str, tuple[str, str]] = {
    "search": ("●", "what is written: the least sum of sensitivities, then improved"),
    "sensitivities": ("○", "the least sum of sensitivities, at other budgets"),
    "uniform": ("■", "all axes alike"),
    "rising": ("▲", "wider with depth (Mix'n'Match)"),
    "falling": ("▼", "narrower with depth (Mix'n'Match)"),
    "evolution": ("◆", "from chance, with as many submodels judged"),
}
_OURS = frozenset({"search", "sensitivities"})


def render(summary: Mapping[str, Any]) -> str:
    """The page of a search.

    Args:
        summary: as `edgevit.measured_budgets.summary` gives it.
    """
    unit = UNITS[summary["of"]]
    candidates: Sequence[Mapping[str, Any]] = summary["candidates"]
    found = next(one for one in candidates if one["name"] == "search")
    others = [one for one in candidates if one["name"] not in _OURS]
    return rendered(
        _TEMPLATE,
        summary=summary,
        unit=unit,
        ways=WAYS,
        ours=_OURS,
        found=found,
        best_other=min(others, key=lambda one: float(one["divergence"]), default=None),
        choices=choices_of(found["widths"], found["kept_float"]),
        chart=frontier_chart(summary, unit),
    )


def choices_of(widths: Mapping[str, int | str], kept_float: Sequence[str]) -> list[tuple[str, str]]:
    """What was chosen for each axis and branch, and for layers that are no integers, in words.

    >>> choices_of({"blocks.0.mlp.fc1:hidden": 384, "blocks.1.mlp": "skip"}, ["linear_4"])
    [('blocks.0.mlp.fc1:hidden', '384 units'), ('blocks.1.mlp', 'skip'), ('linear_4', 'float')]
    """
    chosen = [
        (name, figures.counted(choice, "unit") if isinstance(choice, int) else choice)
        for name, choice in widths.items()
    ]
    return [*chosen, *((layer, "float") for layer in kept_float)]


def frontier_chart(summary: Mapping[str, Any], unit: Unit) -> Markup:
    """Divergence over cost of everything that was found at any budget."""
    judged = [*summary["frontier"], *summary["candidates"]]
    judged = [one for one in judged if one["divergence"] >= _LEAST] or judged
    series = [
        Series(
            name,
            glyph,
            [_point(one, unit) for one in judged if one["name"] == name],
            ours=name in _OURS,
        )
        for name, (glyph, _) in WAYS.items()
        if any(one["name"] == name for one in judged)
    ]
    return charts.scatter(
        "Divergence over cost", series, summary["budget"] * unit.scale, f"{NBSP}{unit.unit}"
    )


def _point(one: Mapping[str, Any], unit: Unit) -> tuple[float, float, str]:
    cost, nats = int(one["cost"]), float(one["divergence"])
    return cost * unit.scale, max(nats, _LEAST), f"{unit.words(cost)}, {figures.two_digits(nats)} nats"
