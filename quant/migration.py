"""How much of an activation's range its weights take over: SmoothQuant's migration strength, by measurement.

SmoothQuant (Xiao et al. 2023) leaves its strength to the user, one number for a whole model. What is best
differs from layer to layer: the strength here is the one with which the layers that read an activation,
quantized as they will be, compute what is nearest to what they compute unquantized. Layers are linears, as in
the paper, and convolutions; a depthwise one, whose weight has a scale for each channel anyway, can take over
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgevit.quant.grids import ActivationGrid
from edgevit.quant.observation import Observed, headroom
from edgevit.quant.operators import by_input_channel, groups_of, input_peaks, layer_of
from edgevit.quant.precision import BitWidths
from edgevit.quant.ranges import SchemeChoice, fit_weight, settled

# 0 would leave everything to the activation; 1 leaves everything to the weights.
_STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SMALLEST_PEAK = 1e-4
# Another multiplication is worth it where it takes away so much of the layers' squared error.
_WORTH_MULTIPLYING = 0.7


@dataclass(frozen=True)
class Reader:
    """A layer that reads an activation.

    Attributes:
        node: the layer.
        weight: (outputs, channels / groups, ...).
    """

    node: Node
    weight: torch.Tensor

    def compute(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What the layer gives for other values and another weight, its bias left out."""
        places, args = layer_of(self.node), list(self.node.args)
        args[places.input], args[places.weight] = values, weight
        if len(args) > places.bias:
            args[places.bias] = None
        operator: Callable[..., torch.Tensor] = self.node.target  # type: ignore[assignment]
        return operator(*args)

    def divided(self, scale: torch.Tensor) -> torch.Tensor:
        """The weight that undoes a factor of the input channels."""
        return self.weight / by_input_channel(scale, self.weight, groups_of(self.node))


@dataclass(frozen=True)
class Reading:
    """An activation, and the layers that read it.

    Attributes:
        observed: the activation on the other calibration images than those of `values`.
        peaks: (channels,) its largest absolute values on all of them.
        values: the activation on some: what the others' ranges do not hold is cut off, as it will be of
            images that nobody has seen.
        dim: of its channels.
        readers: layers of one kind.
    """

    observed: Observed
    peaks: torch.Tensor
    values: torch.Tensor
    dim: int
    readers: Sequence[Reader]


def migrate(reading: Reading, bits: BitWidths, scheme: SchemeChoice, *, free: bool) -> torch.Tensor | None:
    """The factor with which an activation costs its layers least.

    Args:
        reading: the activation and its layers.
        bits: of weights and activations.
        scheme: of the activation's grid.
        free: whether multiplying costs nothing at run time, because a layer norm does it.

    Returns:
        float32 (channels,), 1 the largest; None where leaving the activation alone is better.
    """
    columns = torch.stack(
        [input_peaks(reader.weight, groups_of(reader.node)) for reader in reading.readers]
    ).amax(dim=0)
    exact = [reader.compute(reading.values, reader.weight) for reader in reading.readers]
    alone = _error(reading, reading.observed, exact, torch.ones_like(columns), bits=bits, scheme=scheme)
    least, best = alone * (1.0 if free else _WORTH_MULTIPLYING), None
    # What a layer norm gives is of much the same size for any image.
    roomy = reading.observed if free else reading.observed.wider(headroom(bits.activations))
    for strength in _STRENGTHS:
        scale = smoothing_scale(reading.observed.peaks, columns, strength)
        error = _error(reading, roomy, exact, scale, bits=bits, scheme=scheme)
        if error < least:
            least, best = error, strength
    return None if best is None else smoothing_scale(reading.peaks, columns, best)


def smoothing_scale(peaks: torch.Tensor, columns: torch.Tensor, strength: float) -> torch.Tensor:
    """SmoothQuant's factor (eq. 4): the range that the weights take over is the peaks' power of `strength`.

    Args:
        peaks: (channels,) of the activation.
        columns: (channels,) of the weights that it meets.
        strength: 0 to 1.

    Returns:
        float32 (channels,), 1 the largest, and of channels that are nothing but zeros.
    """
    scale = columns.clamp_min(_SMALLEST_PEAK) ** (1 - strength) / peaks.clamp_min(_SMALLEST_PEAK) ** strength
    alive = peaks > 0
    return torch.where(alive, scale / torch.where(alive, scale, 0.0).max(), 1.0)


def _error(
    reading: Reading,
    observed: Observed,
    exact: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    bits: BitWidths,
    scheme: SchemeChoice,
) -> float:
    """Squared error of what the layers compute from the activation times `scale`, all quantized.

    Args:
        reading: the activation and its layers.
        observed: the range that the activation is to have, before it is multiplied.
        exact: what the layers compute in float.
        scale: (channels,).
        bits: of weights and activations.
        scheme: of the activation's grid.
    """
    grid = ActivationGrid.of_range(
        float((observed.lows * scale).min()),
        float((observed.highs * scale).max()),
        bits=bits.activations or 8,
        scheme=settled(scheme),
    )
    along = scale.reshape([-1 if dim == reading.dim else 1 for dim in range(reading.values.dim())])
    smooth = grid.quantize(reading.values * along)
    error = 0.0
    for reader, expected in zip(reading.readers, exact, strict=True):
        rounded = fit_weight(reader.divided(scale), bits.weights, 0, granularity="channel").dequantize()
        error += float((expected - reader.compute(smooth, rounded)).square().sum())
    return error
