"""The ranges of a graph's values on calibration images."""

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


@dataclass(frozen=True)
class Observed:
    """One value of the graph over all calibration images.

    Attributes:
        low: smallest number, at most 0.
        high: largest number, at least 0.
        peaks: (channels,) largest absolute value of each channel.
        constant: the number that it was everywhere; None where it was several.
    """

    low: float
    high: float
    peaks: torch.Tensor
    constant: float | None = None


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

    def look(name: str, value: torch.Tensor) -> None:
        new = _observed(runner.nodes[name], value)
        found[name] = _merged(found[name], new) if name in found else new

    with torch.no_grad():
        for part in track(parts, "observing", len(parts)):
            runner.observe(part, names, look)
    return found


def _observed(node: Node, value: torch.Tensor) -> Observed:
    magnitudes = value.abs()
    if value.dim() > 1:
        dim = channel_dim(node, value.dim()) % value.dim()
        magnitudes = magnitudes.amax(dim=[i for i in range(value.dim()) if i != dim])
    low, high = float(value.min()), float(value.max())
    return Observed(min(low, 0.0), max(high, 0.0), magnitudes, low if low == high else None)


def _merged(old: Observed, new: Observed) -> Observed:
    return Observed(
        # Not Python's min and max, which may drop a NaN.
        float(np.minimum(old.low, new.low)),
        float(np.maximum(old.high, new.high)),
        torch.maximum(old.peaks, new.peaks) if old.peaks.shape == new.peaks.shape else new.peaks,
        old.constant if old.constant == new.constant else None,
    )
