"""Plots as SVG files that stand alone in a document: points and lines over two linear scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from edgevit.report.charts import nice_ticks

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 52


@dataclass(frozen=True)
class Line:
    """Points of one kind.

    Attributes:
        name: of all of them.
        points: across and up.
        colour: of all of them.
        joined: whether a line joins them.
        radius: of each, in pixels.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    joined: bool = False
    radius: float = 4.0


def write_plot(path: Path, lines: Sequence[Line], *, across: str, up: str) -> None:
    """Draw, with a legend; the first line lies below the others."""
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    frame = _Frame(_around(xs), _around(ys))
    body = [*frame.axes(across, up)]
    for place, line in enumerate(lines):
        at = [frame.at(*point) for point in line.points]
        if line.joined:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            body.append(f'<polyline points="{joined}" fill="none" stroke="{line.colour}"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{line.radius}" fill="{line.colour}"/>' for x, y in at]
        top = HEIGHT - BOTTOM - 20 * (len(lines) - place)
        body.append(f'<circle cx="{WIDTH - 250}" cy="{top}" r="4" fill="{line.colour}"/>')
        body.append(f'<text x="{WIDTH - 240}" y="{top + 4}">{escape(line.name)}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="13"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n",
        encoding="utf-8",
    )


@dataclass(frozen=True)
class _Frame:
    """The scales.

    Attributes:
        x: the least and the most across.
        y: likewise up.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, across: str, up: str) -> list[str]:
        """Grid, numbers and what they are of."""
        found = []
        for tick in nice_ticks(*self.x):
            x, y = self.at(tick, self.y[0])
            found.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{y:.1f}" stroke="#e1e5eb"/>')
            found.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{tick:g}</text>')
        for tick in nice_ticks(*self.y):
            x, y = self.at(self.x[0], tick)
            found.append(
                f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e1e5eb"/>'
            )
            found.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        found.append(
            f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
        )
        found.append(
            f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(up)}</text>"
        )
        return found


def _around(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin
