"""Workers on this machine, as processes that end when their coordinator does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

_COMMAND = "from edgevit.cli import main; main()"


@contextlib.contextmanager
def local_workers(names: Collection[str], log: Path | None = None) -> Iterator[LocalWorkers]:
    """Worker processes of some names; they are there until the block ends.

    Args:
        names: a worker each.
        log: a file for what they say; None for nowhere.
    """
    with contextlib.ExitStack() as stack:
        out: int | IO[bytes] = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))
        workers = LocalWorkers(_free_address(), out)
        stack.callback(workers.close)
        for name in names:
            workers.start(name)
        yield workers


class LocalWorkers:
    """Worker processes.

    Attributes:
        address: at which the coordinator must listen.
        processes: by name.
    """

    def __init__(self, address: str, out: int | IO[bytes]) -> None:
        self.address, self._out = address, out
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a worker."""
        self.processes[name] = subprocess.Popen(  # noqa: S603 - our own interpreter and words of our own
            [
                sys.executable,
                "-c",
                _COMMAND,
                "worker",
                "--name",
                name,
                "--connect",
                self.address,
                "--until-eof",
            ],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._out,
        )

    def close(self) -> None:
        """End all of them."""
        for process in self.processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
