"""The report of a compression as one self-contained HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from edgevit.quant.precision import bit_widths
from edgevit.report import charts, figures
from edgevit.report.pages import rendered

_TEMPLATE = "compression.html.j2"

# A chart is to show which layers stand out; the table under it has all of them.
_LAYERS_DRAWN = 12


def render(summary: Mapping[str, Any]) -> str:
    """The page of a compression.

    Args:
        summary: what `edgevit.compression.summary` gives, or the ``.compress.json`` that was written.
    """
    layers = sorted(summary["sensitivity"], key=lambda item: -item["divergence"])
    placement = summary["placement"]
    return rendered(
        _TEMPLATE,
        summary=summary,
        bits=bits_in_words(summary["precision"]),
        modules={item["layer"]: item["module"] for item in layers},
        layers=layers,
        drawn=layers[:_LAYERS_DRAWN],
        sensitivity_chart=sensitivity_chart(layers[:_LAYERS_DRAWN]),
        placement_chart=None if placement is None else placement_chart(placement),
        added_up=None if placement is None else added_up(placement["candidates"]),
        outcomes=Counter(block["outcome"] for block in summary["blocks"]),
    )


def bits_in_words(precision: str) -> str:
    """What a precision stands for.

    >>> bits_in_words("w4a8"), bits_in_words("w8")
    ('4-bit weights, 8-bit activations', '8-bit weights, float activations')
    """
    bits = bit_widths(precision)
    activations = "float" if bits.activations is None else f"{bits.activations}-bit"
    return f"{bits.weights}-bit weights, {activations} activations"


def added_up(candidates: Iterable[Mapping[str, Any]]) -> float:
    """The time relative to float if what the chosen regions gain, each alone, were simply added.

    >>> added_up([{"ratio": 0.75, "chosen": True}, {"ratio": 0.5, "chosen": False}])
    0.75
    """
    gains: list[float] = [1 - candidate["ratio"] for candidate in candidates if candidate["chosen"]]
    return 1 - sum(gains)


def sensitivity_chart(layers: Iterable[Mapping[str, Any]]) -> Markup:
    """Layers and what quantizing each alone does."""
    return charts.sensitivity_bars(
        [
            (item["module"] or item["layer"], item["divergence"], figures.two_digits(item["divergence"]))
            for item in layers
        ]
    )


def placement_chart(placement: Mapping[str, Any]) -> Markup:
    """Every region at every level, beside the float model and the chosen placement as a whole."""
    rows = [("float", 1.0, figures.milliseconds(placement["float_ms"]))]
    for item in placement["candidates"]:
        chosen = ", chosen" if item["chosen"] else ""
        words = f"{figures.times(item['ratio'])}{chosen}"
        rows.append((f"{item['region']}, {item['level']}", item["ratio"], words))
    rows.append(("what was chosen, as a whole", placement["ratio"], figures.times(placement["ratio"])))
    return charts.time_dots(rows)
