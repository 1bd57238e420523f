"""This machine as a cluster: worker processes on its cores, and how fast it is with a Program, measured."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.planning.cluster import Cluster, Machine
from edgevit.planning.cluster_file import DeviceEntry

_RUNS = 5
_SENT = 32_000_000


def local_cluster(program: Program, workers: int) -> Cluster:
    """Worker processes on this machine, each with one thread and its part of the memory.

    Measured here: how long the Program takes, and how fast bytes pass between two sockets. Where workers are
    more than cores, they take turns.

    Args:
        program: by which the machine's speed is measured.
        workers: how many.

    Raises:
        EdgevitError: when there are none.
    """
    if workers < 1:
        raise EdgevitError(f"--local {workers}: at least one worker is needed")
    cores = os.cpu_count() or 1
    turns = max(1.0, workers / cores)
    macs, seconds = count_macs(program), _seconds(program)
    entry = DeviceEntry(name="local", count=workers, macs_per_second=macs / (seconds * turns))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / workers
    notes = [f"the speed of this machine is that of PyTorch with one thread: {1e3 * seconds:.3g} ms in all"]
    if turns > 1:
        notes.append(f"{workers} workers take turns on {cores} cores: each is {turns:.3g} times slower")
    bandwidth = _loopback()
    return Cluster(
        tuple(
            Machine(f"local-{place}", entry, memory, bandwidth, 0.0, None, "onnx", tuple(notes))
            for place in range(1, workers + 1)
        )
    )


def _seconds(program: Program) -> float:
    """The median of a few runs of one image, on one thread."""
    import torch

    image = np.zeros((program.batch or 1, *(int(size) for size in program.input_shape[1:])), dtype=np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        program.run(image)
        return statistics.median(_timed(program, image) for _ in range(_RUNS)) / len(image)
    finally:
        torch.set_num_threads(threads)


def _timed(program: Program, image: np.ndarray) -> float:
    started = time.perf_counter()
    program.run(image)
    return time.perf_counter() - started


def _loopback() -> float:
    """Bytes in a second from one socket of this machine to another."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(),))
        sender.start()
        receiver, _ = server.accept()
        started = time.perf_counter()
        with receiver:
            left = _SENT
            while left > 0 and (got := len(receiver.recv(1 << 20))):
                left -= got
        seconds = time.perf_counter() - started
        sender.join()
    return _SENT / seconds


def _send(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(bytes(_SENT))
