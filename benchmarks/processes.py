"""Memory and file descriptors of running processes, over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


def children(pid: int) -> list[int]:
    """Processes that one has started, and they in turn."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(word) for path in lists for word in path.read_text().split()]
    return own + [each for child in own for each in children(child)]


def resident(pid: int) -> float:
    """MB of memory that a process has, without what it shares as files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e3


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def processor_seconds(pid: int) -> float:
    """Seconds of computing that a process has taken."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


@dataclass
class Watch:
    """Samples of some processes, each with what was done until then."""

    processes: dict[str, int]
    done: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)

    def sample(self, done: float) -> None:
        self.done.append(done)
        for name, pid in self.processes.items():
            self.memory.setdefault(name, []).append(resident(pid))
            self.files.setdefault(name, []).append(descriptors(pid))

    def settled(self) -> int:
        """The first sample after caches and pools have filled: of the second half."""
        return len(self.done) // 2

    def slope(self, name: str) -> float:
        """kB for each unit of what was done, by least squares over the second half."""
        start = self.settled()
        return 1e3 * float(np.polyfit(self.done[start:], self.memory[name][start:], 1)[0])

    def grown(self, megabytes: float, files: int) -> list[str]:
        """Processes that have so much more, over the second half."""
        half = self.settled()
        return [
            name
            for name in self.processes
            if self.memory[name][-1] - self.memory[name][half] > megabytes
            or self.files[name][-1] - self.files[name][half] > files
        ]

    def show(self, unit: str) -> None:
        half = self.settled()
        for name in self.processes:
            memory, files = self.memory[name], self.files[name]
            print(
                f"  {name}: {memory[0]:.1f} MB at first, {memory[half]:.1f} half-way, {memory[-1]:.1f} then; "
                f"{self.slope(name):+.3f} kB per {unit} over the second half; "
                f"files {files[0]}, {files[half]}, {files[-1]}"
            )
