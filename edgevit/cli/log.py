"""What edgevit logs, printed while a command runs."""

from __future__ import annotations

import logging

import click


def print_log(level: int, line: str) -> None:
    """Print what edgevit logs on standard error, until the command ends.

    Other libraries' loggers are left as they are.

    Args:
        level: of what is printed, and above.
        line: what a record looks like, as `logging.Formatter` takes it.
    """
    log, handler = logging.getLogger("edgevit"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(line))
    before = log.level
    log.setLevel(level)
    log.addHandler(handler)
    # Two commands may run in one process, and the stream may be closed behind the first.
    context = click.get_current_context()
    context.call_on_close(lambda: log.removeHandler(handler))
    context.call_on_close(lambda: log.setLevel(before))
