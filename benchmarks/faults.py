"""Requests at a steady rate while workers are killed and stopped: is each answered, once and rightly?

    python benchmarks/faults.py --requests 10000 --rate 100

A tiny model on three worker processes of this machine. About every `--every` seconds one of them gets
SIGKILL, and is started anew a while later, or SIGSTOP, and goes on a while later. At the end the figures are
printed: answers, wrong ones, requests sent more than once, and the longest time without any answer.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgevit.graph.capture import capture
from edgevit.planning.plans import PlanOptions, plan
from edgevit.runtime.coordinator import Coordinator, CoordinatorOptions
from edgevit.runtime.local import LocalWorkers, local_workers
from edgevit.runtime.models import open_model
from edgevit.runtime.survivors import spare_plans
from edgevit.runtime.transport import Links

CLUSTER = """\
version: 1
networks: [{name: lan, bytes_per_second: 1.0e+9}]
devices: [{name: w, count: 3, memory_bytes: 1.0e+9, macs_per_second: 1.0e+6, network: lan}]
"""


class Trouble(threading.Thread):
    """Kills and stops one worker at a time, and brings it back."""

    def __init__(self, workers: LocalWorkers, every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.workers, self.every, self.random = workers, every, random.Random(seed)  # noqa: S311 - not a secret
        self.done, self.counts = threading.Event(), Counter[str]()

    def run(self) -> None:
        while not self.done.wait(self.random.uniform(0.5, 1.5) * self.every):
            name = self.random.choice(list(self.workers.processes))
            what = self.random.choice(["SIGKILL", "SIGSTOP"])
            self.counts[what] += 1
            process = self.workers.processes[name]
            os.kill(process.pid, getattr(signal, what))
            self.done.wait(self.random.uniform(0.2, 0.8) * self.every)
            if what == "SIGSTOP":
                os.kill(process.pid, signal.SIGCONT)
            else:
                process.wait()
                self.workers.start(name)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def measure(folder: Path, requests: int, rate: float, every: float, seed: int) -> None:
    program = capture(model(), input_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, name="tiny")
    program.save(folder / "tiny.pt2")
    (folder / "cluster.yaml").write_text(CLUSTER)
    made = plan(folder / "tiny.pt2", devices=folder / "cluster.yaml", options=PlanOptions(mode="pipeline"))
    opened = open_model(made, folder / "tiny.pt2", folder / "pieces")
    spares = [opened.layout(entry) for entry in (made.plan, *spare_plans(made))][1:]
    images = np.random.default_rng(seed).standard_normal((64, 1, 3, 16, 16), dtype=np.float32)
    expected = program.run(images[:, 0])[0]
    answered, times = Counter[int](), list[float]()
    with local_workers([device.name for device in made.devices], folder / "log") as workers:
        options = CoordinatorOptions(patience=1.0, probation=5.0, gather=60.0, in_flight=512)
        coordinator = Coordinator(made, opened, Links(listen=(workers.address,)), options, spares)
        coordinator.wait_until_ready(120)
        trouble = Trouble(workers, every, seed)
        trouble.start()
        started, futures = time.perf_counter(), []
        for number in range(requests):
            time.sleep(max(0.0, started + number / rate - time.perf_counter()))
            future = coordinator.submit({"image": images[number % len(images)]})
            future.add_done_callback(
                lambda _, n=number: (answered.update([n]), times.append(time.perf_counter()))
            )
            futures.append(future)
        answers = [future.result(120) for future in futures]
        trouble.done.set()
        trouble.join()
        switches = coordinator.switches
        for process in workers.processes.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
        coordinator.close()
    wrong = sum(
        not np.allclose(next(iter(answer.outputs.values())), expected[number % len(images)], atol=1e-5)
        for number, answer in enumerate(answers)
    )
    gaps = np.diff(sorted([started, *times]))
    print(f"{requests} requests at {rate:g}/s, {dict(trouble.counts)}, {switches} changes of plan")
    print(f"answered {len(answered)}, more than once {sum(n > 1 for n in answered.values())}, wrong {wrong}")
    print(f"sent more than once {sum(answer.attempts > 1 for answer in answers)}")
    latencies = [answer.seconds for answer in answers]
    print(f"latency p50 {np.percentile(latencies, 50):.4f} s, p99 {np.percentile(latencies, 99):.3f} s")
    print(f"longest time without an answer {gaps.max():.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--every", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.requests, options.rate, options.every, options.seed)


if __name__ == "__main__":
    main()
