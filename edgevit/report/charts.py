"""Charts as SVG markup, drawn by pure functions.

Horizontal positions are percentages and vertical ones pixels: a chart fills whatever width it is given
and its text stays the size of the page's. Colours come from the page's style sheet by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgevit.profiling.latency import histogram
from edgevit.report.figures import NBSP, TIMES, counted, digits, milliseconds, percent, points, seconds

# A row of a bar chart: a line of text, the bar under it, air before the next.
_ROW, _BAR_TOP, _BAR = 46, 22, 8
_AXIS = 22

# What stands beside a value on the narrowest screen.
_NAME_LENGTH = 28

# Pixels of a line over time.
_TALL = 120

# More points than this across a phone's screen are one blot.
_STRIP_POINTS = 200


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """One SVG element; whatever is not Markup is escaped, ``_`` in an attribute's name becomes ``-``.

    >>> str(element("text", "a < b", text_anchor="end"))
    '<text text-anchor="end">a &lt; b</text>'
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    written = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in named.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def chart(height: float, label: str, *children: str) -> Markup:
    """A drawing as wide as its place, with the words that stand for it where it cannot be seen."""
    return element(
        "svg", *children, class_="chart", role="img", aria_label=label, width="100%", height=height
    )


def short(name: str) -> str:
    """A name that fits beside a value; the middle goes, for names differ at their ends.

    >>> short("model.onnx"), short("a" * 20 + "b" * 20)
    ('model.onnx', 'aaaaaaaaaaaaaa…bbbbbbbbbbbbb')
    """
    if len(name) <= _NAME_LENGTH:
        return name
    half = _NAME_LENGTH // 2
    return f"{name[:half]}…{name[1 - half :]}"


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values inside a range, a step of 1, 2 or 5 times a power of ten apart.

    >>> nice_ticks(0.9, 2.3)
    [1.0, 1.5, 2.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """Where on the width of a chart values lie, `low` at its left edge and `high` at its right."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Percent of the width at which a value lies, kept inside the chart."""
        if not self.high > self.low:
            return 50.0
        return min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low)))

    def at(self, value: float) -> str:
        """The same, as an attribute."""
        return f"{self.share(value):.3f}%"


# --- latency ------------------------------------------------------------------------------------------


def bins_for(count: int) -> int:
    """How many bins a histogram of so many samples can carry without falling apart."""
    return max(8, min(40, round(2 * math.sqrt(count))))


def latency_histogram(samples: Sequence[float], markers: Sequence[tuple[str, float]]) -> Markup:
    """How the runs' times are distributed, with percentiles marked.

    Args:
        samples: milliseconds, one per run.
        markers: name and milliseconds of each line to draw, in ascending order.
    """
    bins = histogram(samples, bins_for(len(samples)))
    low, high = bins[0][0], bins[-1][1]
    # One line of text per marker: neighbouring percentiles are often too close for one line.
    top = 20 * len(markers) + 4
    base = top + 130
    scale = Scale(low, high)
    bars = [_bin(item, scale, base, 130 / max(count for *_, count in bins)) for item in bins]
    lines = [_marker(row, *marker, scale, base) for row, marker in enumerate(markers)]
    described = ", ".join(f"{name} {milliseconds(value)}" for name, value in markers)
    label = f"Histogram of {counted(len(samples), 'run')} from {milliseconds(low)}: {described}"
    return chart(base + _AXIS, label, *bars, *_axis(scale, base), *lines)


def _bin(item: tuple[float, float, int], scale: Scale, base: float, per_run: float) -> Markup:
    start, end, count = item
    height = count * per_run
    return element(
        "rect",
        element("title", f"{digits(start)} to {milliseconds(end)}: {counted(count, 'run')}"),
        class_="bar",
        x=scale.at(start),
        # A little narrower than its bin, so that bars are told apart.
        width=f"{0.88 * (scale.share(end) - scale.share(start)):.3f}%",
        y=f"{base - height:.2f}",
        height=f"{height:.2f}",
        data_count=count,
    )


def _marker(row: int, name: str, value: float, scale: Scale, base: float) -> Markup:
    at, y = scale.at(value), 20 * row
    # Past the middle the words go to the left of their line, or they would leave the chart.
    left = scale.share(value) > 60
    return element(
        "g",
        element("line", class_="mark", x1=at, x2=at, y1=y, y2=base),
        element(
            "text",
            element("tspan", name, class_="strong"),
            f" {milliseconds(value)}",
            x=at,
            y=y + 12,
            dx=-6 if left else 6,
            text_anchor="end" if left else "start",
        ),
        class_=f"marker {name}",
    )


def _axis(scale: Scale, base: float, unit: str = "") -> list[Markup]:
    ticks = nice_ticks(scale.low, scale.high)
    labels = [
        element("text", f"{tick:g}{unit}", class_="soft", x=scale.at(tick), y=base + 17, text_anchor="middle")
        for tick in ticks
    ]
    return [element("line", class_="axis", x1="0%", x2="100%", y1=base, y2=base), *labels]


def warm_up_strip(first_ms: float, warm_up_ms: Sequence[float], p50_ms: float) -> Markup:
    """The runs before the timed ones, in order: how fast the times settle towards the median."""
    values = _slowest_of_groups([first_ms, *warm_up_ms], _STRIP_POINTS)
    top = 1.1 * max(*values, p50_ms)
    step = 100 / max(1, len(values) - 1)
    path = " ".join(f"{index * step:.2f},{100 - 100 * value / top:.2f}" for index, value in enumerate(values))
    median = f"{64 * (1 - p50_ms / top):.2f}"
    line = element("polyline", class_="line", points=path, vector_effect="non-scaling-stroke")
    return chart(
        66,
        f"Times of the first run and {counted(len(warm_up_ms), 'warm-up run')}, in order; "
        f"the first took {milliseconds(first_ms)}, the median of the timed runs is {milliseconds(p50_ms)}",
        element("line", class_="axis", x1="0%", x2="100%", y1=64, y2=64),
        element("line", class_="mark", x1="0%", x2="100%", y1=median, y2=median),
        # Only this part is stretched: its points cannot be given in percent.
        element("svg", line, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height=64),
    )


def _slowest_of_groups(values: Sequence[float], most: int) -> list[float]:
    size = math.ceil(len(values) / most)
    return [max(values[start : start + size]) for start in range(0, len(values), size)]


def over_time(what: str, unit: str, values: Sequence[float], each: str) -> Markup:
    """Values in the order they came, on an axis that begins at 0.

    Args:
        what: they are.
        unit: of a value.
        values: one for each run, second and so on; at least one.
        each: what there is one for.
    """
    shown = _slowest_of_groups(values, _STRIP_POINTS)
    top = 1.1 * max(*shown, 0.0) or 1.0
    step = 100 / max(1, len(shown) - 1)
    path = " ".join(f"{index * step:.2f},{100 - 100 * value / top:.2f}" for index, value in enumerate(shown))
    line = element("polyline", class_="line", points=path, vector_effect="non-scaling-stroke")
    low, high = min(values), max(values)
    spoken = f"{what} over {counted(len(values), each)}: from {digits(low)} to {digits(high)} {unit}"
    return chart(
        _TALL + _AXIS,
        spoken,
        *(_level(tick, top, unit) for tick in nice_ticks(0, top, 3)),
        element("svg", line, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height=_TALL),
        element("text", f"1 to {len(values):,}", class_="soft", x="100%", y=_TALL + 17, text_anchor="end"),
    )


def _level(value: float, top: float, unit: str) -> Markup:
    y = f"{_TALL * (1 - value / top):.2f}"
    label = element("text", f"{value:g} {unit}", class_="soft", x="0%", y=y, dy=-4)
    return element("g", element("line", class_="axis", x1="0%", x2="100%", y1=y, y2=y), label)


# --- bars ---------------------------------------------------------------------------------------------


def timeline(stages: Sequence[tuple[str, float]]) -> Markup:
    """Stages one under another, each starting where the one before it ended; seconds beside them."""
    total = sum(duration for _, duration in stages)
    scale = Scale(0, total)
    rows, started = [], 0.0
    for index, (name, duration) in enumerate(stages):
        rows.append(_bar_row(index, name, seconds(duration), scale, (started, started + duration)))
        started += duration
    spoken = ", ".join(f"{name} {seconds(duration)}" for name, duration in stages)
    return chart(_rows_height(len(stages)), f"Timeline of {seconds(total)}: {spoken}", *rows)


def size_bars(files: Sequence[tuple[str, int, str]]) -> Markup:
    """Files by size: (name, bytes, size in words)."""
    return _bars("Sizes", files)


def sensitivity_bars(layers: Sequence[tuple[str, float, str]]) -> Markup:
    """What quantizing each layer alone does: (name, KL divergence in nats, the same in words)."""
    return _bars("Sensitivity", layers)


def time_bars(rows: Sequence[tuple[str, float, str]]) -> Markup:
    """What takes how long: (name, milliseconds, the same in words)."""
    return _bars("Times", rows)


def _bars(what: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    scale = Scale(0, max((value for _, value, _ in rows), default=0))
    drawn = [
        _bar_row(index, name, words, scale, (0, value)) for index, (name, value, words) in enumerate(rows)
    ]
    spoken = ", ".join(f"{name} {words}" for name, _, words in rows)
    return chart(_rows_height(len(rows)), f"{what}: {spoken}", *drawn)


def taken_bars(backends: Sequence[tuple[str, int, int]]) -> Markup:
    """What backends take of a file: (name, operators taken, operators in all)."""
    rows = [
        _bar_row(index, name, f"{taken:,} of {total:,}", Scale(0, total), (0, taken))
        for index, (name, taken, total) in enumerate(backends)
    ]
    spoken = ", ".join(f"{name} {taken} of {total}" for name, taken, total in backends)
    return chart(_rows_height(len(backends)), f"Operators taken: {spoken}", *rows)


def _rows_height(count: int) -> int:
    return _ROW * (count - 1) + _BAR_TOP + _BAR


def _bar_row(index: int, name: str, value: str, scale: Scale, span: tuple[float, float]) -> Markup:
    y, (start, end) = index * _ROW, span
    bar = {"y": y + _BAR_TOP, "height": _BAR, "rx": _BAR / 2}
    width = scale.share(end) - scale.share(start) if scale.high > scale.low else 0.0
    return element(
        "g",
        element("title", f"{name}: {value}"),
        element("text", short(name), x="0%", y=y + 13),
        element("text", value, class_="strong", x="100%", y=y + 13, text_anchor="end"),
        element("rect", class_="track", x="0%", width="100%", **bar),
        element("rect", class_="bar", x=scale.at(start), width=f"{width:.3f}%", **bar),
        class_="row",
    )


def chance_bar(chance: float, kind: str) -> Markup:
    """A thin bar for a probability from 0 to 1; it says nothing that is not written beside it."""
    return element(
        "svg",
        element("rect", class_="track", width="100%", height=4, rx=2),
        element("rect", class_="bar", width=f"{100 * min(1.0, max(0.0, chance)):.2f}%", height=4, rx=2),
        class_=f"chance {kind}",
        aria_hidden="true",
        width="100%",
        height=4,
    )


# --- dots ---------------------------------------------------------------------------------------------


def accuracy_dots(rows: Sequence[tuple[str, float]]) -> Markup:
    """Accuracy in percent of the model (first) and of each artefact, on an axis that need not begin at 0."""
    (model, reference), *artefacts = rows
    said = [(model, reference, percent(reference))]
    said += [(name, value, f"{percent(value)}, {points(value, reference)}") for name, value in artefacts]
    return _dots("Top-1 accuracy", said, accuracy_scale([value for _, value in rows]), f"{NBSP}%")


def time_dots(rows: Sequence[tuple[str, float, str]]) -> Markup:
    """Times relative to float's: (name, ratio, the ratio in words), float itself first."""
    values = [value for _, value, _ in rows]
    return _dots("Time relative to float", rows, Scale(min(values) - 0.05, max(values) + 0.05), TIMES)


def accuracy_scale(values: Sequence[float]) -> Scale:
    """Room around the values, at least two points in all, inside 0 to 100 percent."""
    low, high = min(values), max(values)
    margin = max(1.0, 0.35 * (high - low))
    return Scale(max(0.0, low - margin), min(100.0, high + margin))


def _dots(what: str, rows: Sequence[tuple[str, float, str]], scale: Scale, unit: str) -> Markup:
    """Rows of (name, value, value in words); the first is what the others are compared with."""
    reference, base = scale.at(rows[0][1]), _ROW * len(rows) - 6
    line = element("line", class_="mark", x1=reference, x2=reference, y1=26, y2=base)
    dots = [_dot_row(index, *row, scale) for index, row in enumerate(rows)]
    spoken = ", ".join(f"{name} {words}" for name, _, words in rows)
    return chart(base + _AXIS, f"{what}: {spoken}", line, *dots, *_axis(scale, base, unit))


def _dot_row(index: int, name: str, value: float, words: str, scale: Scale) -> Markup:
    y = index * _ROW
    middle = y + _BAR_TOP + _BAR / 2
    return element(
        "g",
        element("title", f"{name}: {words}"),
        element("text", short(name), x="0%", y=y + 13),
        element("text", words, class_="strong", x="100%", y=y + 13, text_anchor="end"),
        element("line", class_="rule", x1="0%", x2="100%", y1=middle, y2=middle),
        element("circle", class_="reference" if index == 0 else "dot", cx=scale.at(value), cy=middle, r=6),
        class_="row",
    )


# --- points -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: of all of them.
        glyph: the character that stands for each.
        points: across, up, and both in words.
        ours: whether they are in the page's colour, and in front of the others.
    """

    name: str
    glyph: str
    points: Sequence[tuple[float, float, str]]
    ours: bool = False


def scatter(what: str, series: Sequence[Series], limit: float | None, across: str) -> Markup:
    """Points on a linear scale across and a logarithmic one up.

    Args:
        what: is shown, for those who cannot see it.
        series: each of one point at least; what is up must be above 0.
        limit: a budget on the scale across; None draws none.
        across: unit of that scale.
    """
    values = [x for one in series for x, _, _ in one.points]
    heights = [math.log10(y) for one in series for _, y, _ in one.points]
    scale = Scale(min(values) - 0.03 * max(values), 1.03 * max(values))
    low, high = math.floor(min(heights)), math.ceil(max(heights))
    high += low == high
    top, base = 8, 268

    def level(height: float) -> float:
        return base - (base - top) * (height - low) / (high - low)

    lines = []
    for power in range(low, high + 1):
        y = f"{level(power):.2f}"
        lines += [
            element("line", class_="axis", x1="0%", x2="100%", y1=y, y2=y),
            element("text", f"{10.0**power:g}", class_="soft", x="0%", y=f"{level(power) - 4:.2f}"),
        ]
    if limit is not None:
        at = scale.at(limit)
        lines.append(element("line", class_="mark", x1=at, x2=at, y1=top, y2=base))
    drawn = [
        element(
            "text",
            element("title", f"{one.name}: {words}"),
            one.glyph,
            class_="point" if one.ours else "point soft",
            x=scale.at(x),
            y=f"{level(math.log10(y)) + 5:.2f}",
            text_anchor="middle",
        )
        for one in sorted(series, key=lambda one: one.ours)
        for x, y, words in one.points
    ]
    spoken = ", ".join(f"{counted(len(one.points), 'point')} of {one.name}" for one in series)
    return chart(base + _AXIS, f"{what}: {spoken}", *lines, *drawn, *_axis(scale, base, across))
