"""How much of an activation's range its weights take over: SmoothQuant's migration strength, by measurement.

SmoothQuant (Xiao et al. 2023) leaves its strength to the user, one number for a whole model. What is best
differs from layer to layer: the strength here is the one with which the layers that read an activation,
quantized as they will be, compute what is nearest to what they compute unquantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgevit.quant.grids import ActivationGrid
from edgevit.quant.observation import Observed
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import SchemeChoice, fit_weight

# 0 would leave everything to the activation, 1 to the weights.
_STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
_SMALLEST_PEAK = 1e-4
# Another multiplication is worth it where it takes away so much of the layers' squared error.
_WORTH_MULTIPLYING = 0.7


@dataclass(frozen=True)
class Reading:
    """An activation, and the linear layers that read it.

    Attributes:
        observed: the activation on all calibration images.
        rows: (n, channels), some of its vectors.
        weights: (outputs, channels) of each layer.
    """

    observed: Observed
    rows: torch.Tensor
    weights: Sequence[torch.Tensor]


def migrate(reading: Reading, bits: BitWidths, scheme: SchemeChoice, *, free: bool) -> torch.Tensor | None:
    """The factor with which an activation costs its layers least.

    Args:
        reading: the activation and its layers.
        bits: of weights and activations.
        scheme: of the activation's grid.
        free: whether multiplying costs nothing at run time.

    Returns:
        float32 (channels,), 1 the largest; None where leaving the activation alone is better.
    """
    peaks = reading.observed.peaks
    least, best = _error(reading, torch.ones_like(peaks), bits, scheme), None
    least *= 1.0 if free else _WORTH_MULTIPLYING
    for strength in _STRENGTHS:
        scale = smoothing_scale(peaks, reading.weights, strength)
        error = _error(reading, scale, bits, scheme)
        if error < least:
            least, best = error, scale
    return best


def smoothing_scale(peaks: torch.Tensor, weights: Sequence[torch.Tensor], strength: float) -> torch.Tensor:
    """SmoothQuant's factor (eq. 4): the range that the weights take over is the peaks' power of `strength`.

    Args:
        peaks: (channels,) of the activation.
        weights: (outputs, channels) each.
        strength: 0 to 1.

    Returns:
        float32 (channels,), 1 the largest.
    """
    columns = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    scale = columns.clamp_min(_SMALLEST_PEAK) ** (1 - strength) / peaks.clamp_min(_SMALLEST_PEAK) ** strength
    return scale / scale.max()


def _error(reading: Reading, scale: torch.Tensor, bits: BitWidths, scheme: SchemeChoice) -> float:
    """Squared error of what the layers compute from the activation times `scale`, all quantized."""
    grid = ActivationGrid.of_range(
        float((reading.observed.lows * scale).min()),
        float((reading.observed.highs * scale).max()),
        bits=bits.activations or 8,
        scheme="sym" if scheme == "sym" else "asym",
    )
    smooth = grid.quantize(reading.rows * scale)
    error = 0.0
    for weight in reading.weights:
        rounded = fit_weight(weight / scale, bits.weights, 0, granularity="channel").dequantize()
        error += float((reading.rows @ weight.T - smooth @ rounded.T).square().sum())
    return error
