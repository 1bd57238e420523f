"""Requests at a steady rate while workers are killed, stopped, cut off: is each answered once and rightly?

    sudo python benchmarks/faults.py --cuts --requests 10000 --rate 100

A tiny model on three workers. About every `--every` seconds one of them gets SIGKILL, and is started anew a
while later, or SIGSTOP, and goes on a while later; with `--cuts` each worker is on a host of its own (network
namespaces, which need root), and its line may be cut, and mended a while later. At the end the figures are
printed: answers, wrong ones, requests sent more than once; how long each kind of fault was not noticed, how
long it then took until another plan ran, and the longest time without any answer.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from hosts import COMMAND, address, inside, network, plug
from torch import nn

from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.ledger import Answer
from edgevit.runtime.local import LocalWorkers, local_workers
from edgevit.runtime.models import open_model
from edgevit.runtime.survivors import spare_plans
from edgevit.runtime.transport import Links

CLUSTER = """\
version: 1
networks: [{name: lan, bytes_per_second: 1.0e+9}]
devices: [{name: evt, count: 3, memory_bytes: 1.0e+9, macs_per_second: 1.0e+6, network: lan}]
"""
PORT = 7447


class Hosts:
    """Workers on hosts of their own, beside this process, which is on the bridge between them.

    Attributes:
        address: at which the coordinator must listen.
        processes: by name.
    """

    def __init__(self, hosts: list[str], out: IO[bytes]) -> None:
        self._places, self._out = {host: place for place, host in enumerate(hosts)}, out
        self.address = f"{address(len(hosts))}:{PORT}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        words = ["worker", "--name", name, "--insecure", "--until-eof", "--connect", self.address]
        words += ["--listen", f"{address(self._places[name])}:{PORT}"]
        self.processes[name] = subprocess.Popen(
            inside(name, *COMMAND, *words), stdin=subprocess.PIPE, stdout=self._out, stderr=self._out
        )

    def close(self) -> None:
        for process in self.processes.values():
            process.communicate()


@contextlib.contextmanager
def workers_on_hosts(names: list[str], log: Path) -> Iterator[Hosts]:
    with network(len(names)) as hosts, log.open("ab") as out:
        # This process takes part in the network as one more host.
        subprocess.run(["ip", "addr", "add", f"{address(len(names))}/24", "dev", "evt-bridge"], check=True)
        workers = Hosts(hosts, out)
        for name in names:
            workers.start(name)
        try:
            yield workers
        finally:
            workers.close()


@dataclass
class Fault:
    """Something that was done to a worker."""

    what: str
    name: str
    began: float


@dataclass
class Entry:
    """A plan that the coordinator began to deploy, on some devices, or that it then ran."""

    at: float
    running: bool
    devices: list[str]


class Diary(logging.Handler):
    """What the coordinator says of its plans."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.entries: list[Entry] = []

    def emit(self, record: logging.LogRecord) -> None:
        said, _, rest = record.getMessage().partition(": ")
        if said in {"deploying", "running"}:
            devices = rest.partition(" on ")[2].split(", ")
            self.entries.append(Entry(time.perf_counter(), said == "running", devices))

    def noticed(self, fault: Fault, before: float) -> tuple[float, float] | None:
        """When a plan without the worker was begun, and when it ran; None where it had nothing to do."""
        plans = [entry for entry in self.entries if not entry.running]
        used = [entry for entry in plans if entry.at < fault.began][-1].devices
        without = [
            entry.at
            for entry in plans
            if fault.began <= entry.at < before and fault.name not in entry.devices
        ]
        ran = [entry.at for entry in self.entries if entry.running and without and entry.at > without[0]]
        return (without[0], ran[0]) if fault.name in used and ran else None


class Trouble(threading.Thread):
    """Does something to one worker at a time, and brings it back."""

    def __init__(self, workers: LocalWorkers | Hosts, every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.workers, self.every, self.random = workers, every, random.Random(seed)  # noqa: S311 - not a secret
        self.done, self.faults = threading.Event(), list[Fault]()

    def run(self) -> None:
        kinds = ["SIGKILL", "SIGSTOP", *(["cut"] if isinstance(self.workers, Hosts) else [])]
        while not self.done.wait(self.random.uniform(0.5, 1.5) * self.every):
            name, what = self.random.choice(list(self.workers.processes)), self.random.choice(kinds)
            self.faults.append(Fault(what, name, time.perf_counter()))
            self._strike(name, what)
            self.done.wait(self.random.uniform(0.2, 0.8) * self.every)
            self._restore(name, what)

    def _strike(self, name: str, what: str) -> None:
        if what == "cut":
            plug(name, connected=False)
        else:
            os.kill(self.workers.processes[name].pid, getattr(signal, what))

    def _restore(self, name: str, what: str) -> None:
        if what == "cut":
            plug(name, connected=True)
        elif what == "SIGSTOP":
            os.kill(self.workers.processes[name].pid, signal.SIGCONT)
        else:
            self.workers.processes[name].wait()
            self.workers.start(name)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def planned(folder: Path) -> tuple[Program, PlanFile]:
    program = capture(model(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="tiny")
    program.save(folder / "tiny.pt2")
    (folder / "cluster.yaml").write_text(CLUSTER)
    options = PlanOptions(mode="pipeline")
    return program, plan(folder / "tiny.pt2", devices=folder / "cluster.yaml", options=options)


@dataclass
class Asked:
    """What was asked of a coordinator at a steady rate, and when answers came."""

    answers: list[Answer]
    counts: Counter[int]
    times: list[float]

    def wrong(self, expected: np.ndarray) -> int:
        return sum(
            not np.allclose(next(iter(answer.outputs.values())), expected[number % len(expected)], atol=1e-5)
            for number, answer in enumerate(self.answers)
        )

    def longest_gap(self, after: float, before: float) -> float:
        inside = [at for at in self.times if after <= at < before]
        return float(np.diff(sorted([after, *inside, before])).max())


def ask(coordinator: Coordinator, images: np.ndarray, requests: int, rate: float) -> Asked:
    asked, futures, started = Asked([], Counter(), []), [], time.perf_counter()

    def answered(number: int) -> None:
        asked.counts[number] += 1
        asked.times.append(time.perf_counter())

    for number in range(requests):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        future = coordinator.submit({"image": images[number % len(images)]})
        future.add_done_callback(lambda _, number=number: answered(number))
        futures.append(future)
    asked.answers = [future.result(120) for future in futures]
    asked.times.sort()
    return asked


def measure(folder: Path, options: argparse.Namespace) -> None:
    program, made = planned(folder)
    opened = open_model(made, folder / "tiny.pt2", folder / "pieces")
    spares = [opened.layout(entry) for entry in (made.plan, *spare_plans(made))][1:]
    images = np.random.default_rng(options.seed).standard_normal((64, 1, 3, 16, 16), dtype=np.float32)
    names, diary = [device.name for device in made.devices], Diary()
    log = logging.getLogger("edgevit.coordinator")
    log.setLevel(logging.INFO)
    log.addHandler(diary)
    with (workers_on_hosts if options.cuts else local_workers)(names, folder / "log") as workers:
        links = Links(listen=(workers.address,), insecure=True)
        how = CoordinatorOptions(patience=1.0, probation=5.0, gather=60.0, in_flight=512)
        coordinator = Coordinator(made, opened, links, how, spares)
        coordinator.wait_until_ready(120)
        trouble = Trouble(workers, options.every, options.seed)
        trouble.start()
        asked = ask(coordinator, images, options.requests, options.rate)
        trouble.done.set()
        trouble.join()
        print(f"{options.requests} requests at {options.rate:g}/s, {coordinator.switches} changes of plan")
        coordinator.close()
    twice = sum(count > 1 for count in asked.counts.values())
    wrong = asked.wrong(program.run(images[:, 0])[0][:, None])
    print(f"answered {len(asked.counts)}, more than once {twice}, wrong {wrong}")
    print(f"sent more than once {sum(answer.attempts > 1 for answer in asked.answers)}")
    latencies = [answer.seconds for answer in asked.answers]
    print(f"latency p50 {np.percentile(latencies, 50):.4f} s, p99 {np.percentile(latencies, 99):.3f} s")
    ends = [fault.began for fault in trouble.faults[1:]] + [asked.times[-1]]
    spans = [(fault, end, diary.noticed(fault, end)) for fault, end in zip(trouble.faults, ends, strict=True)]
    for what in sorted({fault.what for fault in trouble.faults}):
        show(what, [span for span in spans if span[0].what == what], asked)
    print(f"longest time without an answer {np.diff(asked.times).max():.2f} s")


def show(what: str, spans: list[tuple[Fault, float, tuple[float, float] | None]], asked: Asked) -> None:
    """How long it took to notice faults of a kind, and to run another plan after that."""
    found = [(fault, end, *seen) for fault, end, seen in spans if seen is not None]
    print(f"{what}: {len(spans)} times, {len(found)} of a worker that was in use, and missed")
    if not found:
        return
    noticed = [given_up - fault.began for fault, _, given_up, _ in found]
    taken = [again - given_up for _, _, given_up, again in found]
    gaps = [asked.longest_gap(fault.began, end) for fault, end, _, _ in found]
    beyond = max(gap - until for gap, until in zip(gaps, noticed, strict=True))
    print(f"  noticed after {np.median(noticed):.3f} s, at most {max(noticed):.3f} s")
    print(f"  another plan ran after {np.median(taken):.3f} s more, at most {max(taken):.3f} s")
    print(f"  longest time without an answer {max(gaps):.3f} s, {beyond:.3f} s more than the noticing")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--every", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cuts", action="store_true", help="lines, too; needs root")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), parser.parse_args())


if __name__ == "__main__":
    main()
