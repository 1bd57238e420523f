"""One job in a process of its own, read from standard input and answered on standard output."""

from __future__ import annotations

import os
import pickle
import sys
import threading

import torch

from edgevit import progress
from edgevit.errors import EdgevitError


def main() -> None:
    """Read a job, do it and write what it gave, or why it could not be done."""
    # What a library prints must not be taken for the answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    progress.silence()
    found: bytes | Exception
    try:
        # From the process that started this one.
        job, read, threads = pickle.load(sys.stdin.buffer)  # noqa: S301
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(threads)
        found = job(read())
    except EdgevitError as error:
        found = error
    # A bug is told to the process that can report it.
    except Exception as error:  # noqa: BLE001
        found = RuntimeError(f"{type(error).__name__}: {error}")
    with answers:
        pickle.dump(found, answers)


def _end_with_parent() -> None:
    """End when whoever waits for the answer is gone, however it went."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
