"""A tiny model behind `edgevit serve`, for benchmarks of the front door."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faults import planned
from processes import children

COMMAND = [sys.executable, "-c", "from edgevit.cli import main; main()"]


@dataclass
class Served:
    """A service that runs.

    Attributes:
        process: of `edgevit serve`.
        http: its port.
        grpc: likewise.
        images: (n, 3, 16, 16) float32.
        logits: what the model gives for them.
    """

    process: subprocess.Popen[str]
    http: int
    grpc: int
    images: np.ndarray
    logits: np.ndarray

    def processes(self) -> dict[str, int]:
        """The service's and its workers'."""
        workers = sorted(children(self.process.pid))
        return {"serve": self.process.pid} | {f"worker {n + 1}": pid for n, pid in enumerate(workers)}


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[Served]:
    """Serve a pipeline over three local workers until the block ends.

    Args:
        folder: for the plan, and the service's log.
        words: more of the command line.
    """
    program, made = planned(folder)
    made.write(folder / "plan.yaml")
    http, grpc = free_port(), free_port()
    command = ["serve", str(folder / "plan.yaml"), "--local", "--no-spares"]
    command += ["--http", str(http), "--grpc", str(grpc), *words]
    images = np.random.default_rng(0).standard_normal((32, 3, 16, 16), dtype=np.float32)
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *command], stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            process.stdout.readline()
            yield Served(process, http, grpc, images, program.run(images)[0])
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
