"""A process that measures, read line by line until it ends, is lost, or is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from edgevit.profiling.readings import Readings

# For a device to remove what it holds, once it is told to stop.
_PATIENCE = 15


@dataclass(frozen=True)
class Run:
    """A process, and what it complains about.

    Attributes:
        process: its standard input and output are pipes.
        complaints: its standard error, a file.
        stop: tells it to end.
        explain: a sentence for its exit status and complaints.
    """

    process: subprocess.Popen[bytes]
    complaints: IO[bytes]
    stop: Callable[[subprocess.Popen[bytes]], None]
    explain: Callable[[int, str], str]

    def follow(self, readings: Readings) -> str | None:
        """Read until its end; why it came early, or None."""
        output = self.process.stdout
        assert output is not None  # noqa: S101 - a pipe was asked for
        for line in output:
            readings.take(line.decode("utf-8", "replace"))
        status = self.process.wait()
        if readings.ended and status == 0:
            return None
        return readings.refused or self.explain(status, self.complained())

    def complained(self) -> str:
        """What it has written to standard error."""
        self.complaints.seek(0)
        return self.complaints.read().decode("utf-8", "replace")


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    stop: Callable[[subprocess.Popen[bytes]], None],
    explain: Callable[[int, str], str],
    tmp: str | None = None,
) -> Iterator[Run]:
    """A process that has ended when the block has; of a session of its own, for an interrupt is ours.

    Args:
        command: with its arguments.
        stop: tells it to end.
        explain: a sentence for its exit status and complaints.
        tmp: its temporary folder; None for this process's.
    """
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
            env=None if tmp is None else {**os.environ, "TMPDIR": tmp},
        ) as process,
    ):
        try:
            yield Run(process, complaints, stop, explain)
        finally:
            _end(process, stop)


def _end(process: subprocess.Popen[bytes], stop: Callable[[subprocess.Popen[bytes]], None]) -> None:
    if process.poll() is None:
        stop(process)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def send(process: subprocess.Popen[bytes], content: bytes) -> bool:
    """Write to its standard input; False where it does not listen any more."""
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    try:
        process.stdin.write(content)
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


def hang_up(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input."""
    with contextlib.suppress(BrokenPipeError):
        if process.stdin is not None:
            process.stdin.close()


def ending(status: int) -> str:
    """An exit status in words.

    >>> ending(3), ending(-9)
    ('exit status 3', 'it was ended by signal 9, Killed')
    """
    if status >= 0:
        return f"exit status {status}"
    return f"it was ended by signal {-status}, {signal.strsignal(-status)}"
