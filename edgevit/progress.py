"""Progress on standard error, shown on a terminal only; results never go through here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def silence() -> None:
    """Show no progress from here on (the command line's ``--quiet`` and ``--json``)."""
    _quiet.set(True)


def _shown() -> bool:
    return not _quiet.get() and sys.stderr.isatty()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    if not _shown():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(
        items, description=description, total=total, console=Console(stderr=True), transient=True
    )


@contextlib.contextmanager
def working(description: str) -> Iterator[None]:
    """A spinner beside `description` for work whose length is not known."""
    if not _shown():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(description):
        yield


def report(text: str) -> None:
    """A line about what was finished, for work that is done in other processes."""
    if _shown():
        sys.stderr.write(f"{text}\n")
