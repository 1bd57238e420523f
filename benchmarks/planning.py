"""The planner's optimum and its time, beside a greedy split, an equal one and PipeEdge's published plan.

    python benchmarks/planning.py [--pipeedge ../shared/cases/pipeedge-vit-base] [--write docs/planning.md]

The published case is PipeEdge's profiles of eight boards with ViT-Base (batches of 8); its published plan is
the example of its README_Scheduler.md. The others are drawn by chance: 16 devices that all differ and 96
layers, 50 devices of five kinds and 200 places to cut, each with plenty of memory and fast lines, and with
limited memory and lines of three speeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tables import write_table

from edgevit.planning.baselines import equal_split, greedy, split_at
from edgevit.planning.pipeedge import read_pipeedge
from edgevit.planning.pipelines import Prediction, best_pipelines
from edgevit.planning.problem import Chain, Cut, Host, Problem, Segment, Wire

CASE = Path(__file__).resolve().parents[2] / "shared" / "cases" / "pipeedge-vit-base"

# Six layers for each, the slower boards first.
PUBLISHED = ("mb-0", "mb-1", "mb-2", "mb-3", "rcc-0", "rcc-1", "rcc-2", "rcc-3")


def drawn(kinds: int, each: int, segments: int, *, limited: bool) -> Problem:
    """Devices of so many kinds, so many of each."""
    random = np.random.default_rng(0)
    chain = Chain(
        tuple(
            Segment(f"segment {i}", float(random.integers(1, 40)) * 1e6, float(random.integers(1, 10)) * 1e5)
            for i in range(segments)
        ),
        tuple(
            Cut(f"cut {i}", (Wire("fp32", float(random.integers(1, 40)) * 1e5),)) for i in range(segments + 1)
        ),
    )
    weights = sum(segment.weight_bytes for segment in chain.segments)
    seconds = random.uniform(0.01, 0.1, segments)
    hosts = []
    for kind in range(kinds):
        own = seconds * random.uniform(0.5, 4) * random.uniform(0.8, 1.2, segments)
        memory = float(weights / (kinds * each) * random.uniform(1.2, 3))
        bandwidth = float(random.choice([1e7, 2e7, 1e8]))
        limits = (memory, bandwidth) if limited else (1e12, 1.25e8)
        hosts += [Host(f"{kind}-{i}", tuple(own.tolist()), *limits) for i in range(each)]
    return Problem(chain, tuple(hosts))


def published(problem: Problem) -> Prediction | None:
    """What PipeEdge's published plan comes to."""
    hosts = [problem.host(name) for name in PUBLISHED]
    return split_at(problem, hosts, range(0, 49, 6))


def row(name: str, problem: Problem, other: Callable[[Problem], Prediction | None] | None = None) -> str:
    started = time.perf_counter()
    best = best_pipelines(problem, "throughput")[0]
    took = time.perf_counter() - started
    cells = [
        name,
        f"{best.prediction.bottleneck:.12g}",
        "proven" if best.certificate.optimal else f"gap {best.certificate.gap:.2%}",
        f"{took:.2f}",
        *(bottleneck(way(problem)) for way in (greedy, equal_split)),
        "" if other is None else bottleneck(other(problem)),
    ]
    return f"| {' | '.join(cells)} |"


def bottleneck(prediction: Prediction | None) -> str:
    return "no room" if prediction is None else f"{prediction.bottleneck:.6g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pipeedge", type=Path, default=CASE)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    lines = [
        "| case | bottleneck, s | | planned in, s | greedy, s | equal split, s | PipeEdge's, s |",
        "|---|---|---|---|---|---|---|",
    ]
    if arguments.pipeedge.is_dir():
        lines.append(row("PipeEdge: 8 boards, 48 layers", read_pipeedge(arguments.pipeedge), published))
    for limited, said in ((False, ""), (True, ", limited memory and lines")):
        lines.append(row(f"16 different devices, 96 layers{said}", drawn(16, 1, 96, limited=limited)))
        lines.append(
            row(f"50 devices of 5 kinds, 200 places to cut{said}", drawn(5, 10, 201, limited=limited))
        )
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        write_table(arguments.write, "planning.py", text)


if __name__ == "__main__":
    main()
