"""Commands that were emitted, started as processes of this machine, and asked as clients do."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import numpy as np

from edgevit.runtime.stage_protocol import write_tensors

# Where a container listens.
ANY = "0.0.0.0"  # noqa: S104
START = "from edgevit.cli import main; main()"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def started(workers: Sequence[Sequence[str]], serve: Sequence[str]) -> Iterator[None]:
    """Processes until the block ends; the last is ready when it begins."""
    processes = [subprocess.Popen([sys.executable, "-c", START, *words]) for words in workers]
    last = subprocess.Popen([sys.executable, "-c", START, *serve], stdout=subprocess.PIPE, text=True)
    try:
        assert "serving" in last.stdout.readline()
        yield
    finally:
        for process in (last, *processes):
            process.send_signal(signal.SIGTERM)
        statuses = [process.wait(20) for process in (last, *processes)]
    assert statuses == [0] * len(statuses), statuses


def infer(port: int, name: str, image: np.ndarray) -> np.ndarray:
    (tensor,) = write_tensors("", {"image": image})["outputs"]
    body = json.dumps({"inputs": [tensor]}).encode()
    address = f"http://127.0.0.1:{port}/v2/models/{name}/infer"
    with urllib.request.urlopen(address, data=body, timeout=30) as answer:
        (found,) = json.load(answer)["outputs"]
    return np.array(found["data"], np.float32).reshape(found["shape"])
