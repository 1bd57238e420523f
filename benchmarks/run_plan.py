"""A plan run on images of a file, on whatever host this is: answers and figures go to a file.

    python benchmarks/run_plan.py plan.yaml images.npy out.npz --listen 10.77.0.1:7448

`benchmarks/split.py` starts it in a network namespace.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from edgevit.runtime.coordinator import CoordinatorOptions
from edgevit.runtime.running import RunOptions, run_images, running
from edgevit.runtime.transport import Links

_WARM_UP = 8


def busy_seconds() -> float:
    """Seconds that all cores of this machine have computed, whoever's they were."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan")
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--listen", required=True)
    options = parser.parse_args()
    images = np.load(options.images)
    links = Links(listen=(options.listen,), insecure=True)
    # Nobody is to be suspected of being slow: lines and processors are.
    patient = CoordinatorOptions(patience=120.0)
    with running(options.plan, RunOptions(links=links, spares=False, coordinator=patient)) as coordinator:
        items = images.reshape(-1, *coordinator.model.shape)
        run_images(coordinator, items[:_WARM_UP], _WARM_UP)
        busy, started = busy_seconds(), time.perf_counter()
        result = run_images(coordinator, items, len(items))
        busy = (busy_seconds() - busy) / (time.perf_counter() - started)
    figures = {
        "throughput": result.throughput,
        "planned": result.planned_throughput,
        "p50": result.percentile(50),
        "planned_latency": result.planned_latency,
        "repeated": result.repeated,
        "busy": busy,
        "steps": [dataclasses.asdict(step) for step in result.steps],
    }
    np.savez(options.out, figures=json.dumps(figures), **result.outputs)


if __name__ == "__main__":
    main()
