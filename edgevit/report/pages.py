"""HTML pages out of templates: each whole in itself, with nothing in it that was not escaped."""

from __future__ import annotations

import datetime
import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgevit.report import charts, figures


def rendered(template: str, **values: Any) -> str:
    """A page; it refers to nothing outside itself and needs no script.

    Args:
        template: of this package, one that extends ``base.html.j2``.
        values: what it asks for; all of it is escaped.
    """
    page = _environment().get_template(template).render(**values)
    # A file name need not be UTF-8; Python keeps such bytes as lone surrogates, which no file can hold.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("edgevit.report", "."),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=figures.milliseconds,
        seconds=figures.seconds,
        duration=figures.duration,
        transfer=figures.transfer,
        megabytes=figures.megabytes,
        memory=figures.memory,
        magnitude=figures.magnitude,
        percent=figures.percent,
        chance=figures.chance,
        times=figures.times,
        two_digits=figures.two_digits,
        mebibytes=figures.mebibytes,
        utc=utc,
    )
    environment.globals.update(
        counted=figures.counted,
        points=figures.points,
        size_ratio=figures.size_ratio,
        timeline=charts.timeline,
        chance_bar=charts.chance_bar,
    )
    return environment


def utc(created: str) -> str:
    """An ISO 8601 time as a date and a time of day in UTC.

    >>> utc("2026-03-01T14:05:09+02:00")
    '2026-03-01 12:05 UTC'
    """
    moment = datetime.datetime.fromisoformat(created)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
