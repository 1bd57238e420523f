"""What workers do in tests: apart, because every process that does one imports where it stands."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgevit.errors import EdgevitError


def nothing() -> None:
    """What these jobs are made of."""


def say(text: bytes, _: object) -> bytes:
    os.write(1, b"what a library prints is no answer\n")
    return text


def refuse(_: object) -> bytes:
    raise EdgevitError("no such thing")


def stumble(_: object) -> bytes:
    raise KeyError("a bug")


def die(_: object) -> bytes:
    os._exit(3)


def wait(folder: Path, _: object) -> bytes:
    (folder / str(os.getpid())).touch()
    time.sleep(120)
    return b""
