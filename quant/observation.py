"""What the values of a graph look like on calibration images: their ranges, and samples of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.progress import track
from edgevit.quant.operators import channel_dim
from edgevit.quant.running import Runner, batches

# Numbers kept of each value for searching its grid.
_SAMPLES = 2**15


@dataclass
class Observed:
    """One value of the graph over all calibration images.

    Attributes:
        low: smallest number, at most 0.
        high: largest number, at least 0.
        peaks: (channels,) largest absolute value of each channel.
        samples: numbers drawn from all images alike.
    """

    low: float
    high: float
    peaks: torch.Tensor
    samples: torch.Tensor

    @property
    def is_constant(self) -> bool:
        """Whether it was the same number everywhere."""
        number = float(self.samples[0])
        seen = bool((self.samples == number).all())
        return seen and (self.low, self.high) == (min(number, 0.0), max(number, 0.0))


def observe(program: Program, images: torch.Tensor, names: Collection[str]) -> dict[str, Observed]:
    """Run the images and look at the named values, one batch in memory at a time.

    Args:
        program: a float program with a dynamic batch.
        images: (n, channels, height, width) float32, prepared.
        names: nodes whose value is a float32 tensor.
    """
    runner = Runner(program)
    found: dict[str, Observed] = {}
    parts = list(batches(images))
    share = max(1, _SAMPLES // len(parts))

    def look(name: str, value: torch.Tensor) -> None:
        new = _observed(runner.nodes[name], value, share)
        found[name] = _merged(found[name], new) if name in found else new

    with torch.no_grad():
        for part in track(parts, "observing", len(parts)):
            runner.observe(part, names, look)
    return found


def _observed(node: Node, value: torch.Tensor, share: int) -> Observed:
    magnitudes = value.abs()
    if value.dim() > 1:
        dim = channel_dim(node, value.dim()) % value.dim()
        magnitudes = magnitudes.amax(dim=[i for i in range(value.dim()) if i != dim])
    return Observed(
        min(float(value.min()), 0.0), max(float(value.max()), 0.0), magnitudes, _drawn(value.flatten(), share)
    )


def _drawn(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Some of the numbers, the same ones every time; all of them where they are few.

    Drawn by chance and not by stride: a stride that divides the channels would see one channel only.
    """
    if numbers.numel() <= count:
        return numbers.clone()
    generator = torch.Generator().manual_seed(0)
    return numbers[torch.randint(numbers.numel(), (count,), generator=generator)]


def _merged(old: Observed, new: Observed) -> Observed:
    return Observed(
        # Not Python's min and max, which may drop a NaN.
        float(np.minimum(old.low, new.low)),
        float(np.maximum(old.high, new.high)),
        torch.maximum(old.peaks, new.peaks) if old.peaks.shape == new.peaks.shape else new.peaks,
        torch.cat([old.samples, new.samples]),
    )
