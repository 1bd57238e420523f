"""The ranges of a graph's values on calibration images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.running import Runner, batches
from edgevit.progress import track
from edgevit.quant.operators import channel_dim

# Where all channels were given one range, each of them may leave it on images that nobody has seen, and none
# has anything to spare.
HEADROOM = 1.25


def headroom(bits: int | None) -> float:
    """How much wider than what was seen a grid of so many bits is made then.

    With fewer than 8 bits a step is worth more than what is cut off.
    """
    return HEADROOM if bits is not None and bits >= 8 else 1.0


@dataclass(frozen=True)
class Observed:
    """One value of the graph over all calibration images.

    Attributes:
        low: smallest number, at most 0.
        high: largest number, at least 0.
        lows: (channels,) smallest number of each channel.
        highs: (channels,) largest number of each channel.
        constant: the number that it was everywhere; None where it was several.
    """

    low: float
    high: float
    lows: torch.Tensor
    highs: torch.Tensor
    constant: float | None = None

    @property
    def peaks(self) -> torch.Tensor:
        """(channels,) largest absolute value of each channel."""
        return torch.maximum(self.lows.abs(), self.highs.abs())

    def wider(self, times: float) -> Observed:
        """The same as if everything had been so many times as large."""
        constant = None if self.constant is None else self.constant * times
        return Observed(self.low * times, self.high * times, self.lows * times, self.highs * times, constant)


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
    lows = highs = value
    if value.dim() > 1:
        dim = channel_dim(node, value.dim()) % value.dim()
        others = [i for i in range(value.dim()) if i != dim]
        lows, highs = value.amin(dim=others), value.amax(dim=others)
    low, high = float(value.min()), float(value.max())
    return Observed(min(low, 0.0), max(high, 0.0), lows, highs, low if low == high else None)


def _merged(old: Observed, new: Observed) -> Observed:
    same = old.lows.shape == new.lows.shape
    return Observed(
        # Not Python's min and max, which may drop a NaN.
        float(np.minimum(old.low, new.low)),
        float(np.maximum(old.high, new.high)),
        torch.minimum(old.lows, new.lows) if same else new.lows,
        torch.maximum(old.highs, new.highs) if same else new.highs,
        old.constant if old.constant == new.constant else None,
    )
