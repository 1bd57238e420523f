"""The integers that stand for real numbers: one grid for an activation, one for each channel of a weight.

The deployable contract, which ONNX, TFLite and Core ML can all carry to the bit:

- weights are int8 in [-127, 127] with zero point 0, per output channel (or per tensor);
- activations are per tensor, int8 with any zero point or int16 with zero point 0, and their range holds 0,
  so that padding and ReLU are exact and no zero point overflows;
- every scale is a float16 number, because Core ML rounds scales to float16;
- biases are int32 on the grid of the accumulator, ``input scale x weight scale``.

Fewer than 8 bits use fewer of int8's values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

Scheme = Literal["sym", "asym"]

# The smallest float16 above zero: what a channel or a tensor that is zero everywhere gets as its scale.
_SMALLEST_SCALE = 2.0**-24
_LARGEST_SCALE = 65504.0
_BIAS_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ActivationGrid:
    """A grid of 2**bits numbers for one activation: ``real = scale * (stored - zero_point)``.

    Attributes:
        scale: step between neighbours, a float16 number.
        zero_point: the integer that stands for 0.
        bits: 2 to 8, stored as int8, or 16.
    """

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def dtype(self) -> torch.dtype:
        """What the integers are stored as."""
        return torch.int8 if self.bits <= 8 else torch.int16

    @property
    def quant_min(self) -> int:
        """The smallest integer."""
        # 16-bit kernels have no zero point, and so a symmetric range.
        return -int(2 ** (self.bits - 1)) + (self.bits == 16)

    @property
    def quant_max(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def low(self) -> float:
        """The smallest number on the grid."""
        return self.scale * (self.quant_min - self.zero_point)

    @property
    def high(self) -> float:
        """The largest number on the grid."""
        return self.scale * (self.quant_max - self.zero_point)

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest grid points, as reals: what a quantize-dequantize pair computes."""
        # Multiplied by the reciprocal, as the operators in the graph do: ties fall the same way.
        stored = torch.round(values * (1.0 / self.scale)) + self.zero_point
        return (stored.clamp(self.quant_min, self.quant_max) - self.zero_point) * self.scale

    def widened(self) -> ActivationGrid:
        """The 16-bit grid of a 128th of the step, on which every number of an 8-bit one has its place.

        Exact wherever float16 holds that step. Of the one grid that TFLite's 8-bit softmax and sigmoid give
        it makes the one that their 16-bit kernels give.

        >>> UNIT_INTERVAL.widened() == ActivationGrid(1 / 32768, 0, bits=16)
        True
        """
        return ActivationGrid(snapped(self.scale / 128, up=True), 0, bits=16)

    @classmethod
    def of_range(cls, low: float, high: float, *, bits: int = 8, scheme: Scheme = "asym") -> ActivationGrid:
        """The finest grid that covers [low, high] and 0.

        Args:
            low: smallest value to stand for.
            high: largest value to stand for.
            bits: 2 to 8, or 16, which is symmetric whatever `scheme` says.
            scheme: "sym" puts the zero point at 0 for values of both signs, and at the end of the
                grid where all have one sign; "asym" puts it where the range begs for it.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if bits == 16:
            return cls(snapped(max(-low, high) / 32767, up=True), 0, bits)
        levels = 2**bits - 1
        first = -(2 ** (bits - 1))
        if scheme == "sym" and low < 0 < high:
            return cls(snapped(max(-low, high) / (levels // 2), up=True), 0, bits)
        scale = snapped((high - low) / levels, up=True)
        return cls(scale, first + min(levels, round(-low / scale)), bits)


# What a softmax or a sigmoid gives lies in [0, 1]: the one grid that TFLite's kernels accept for them.
UNIT_INTERVAL = ActivationGrid(1 / 256, -128)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as integers.

    Attributes:
        values: int8, of the weight's shape.
        scales: float32 (channels,) along `axis`, each a float16 number.
        axis: the dimension of the output channels.
        bits: 2 to 8.
    """

    values: torch.Tensor
    scales: torch.Tensor
    axis: int
    bits: int

    def dequantize(self) -> torch.Tensor:
        """The weight that the integers stand for, float32."""
        return self.values.float() * along(self.scales, self.axis, self.values.dim())


def weight_limit(bits: int) -> int:
    """The largest integer of a weight of so many bits; the smallest is its negative."""
    return int(2 ** (bits - 1)) - 1


def weight_scales(weight: torch.Tensor, *, bits: int, axis: int, per_channel: bool = True) -> torch.Tensor:
    """float32 (channels,): the smallest scales with which nothing of the weight is cut off."""
    largest = weight.abs().amax(dim=[i for i in range(weight.dim()) if i != axis])
    if not per_channel:
        largest = largest.max().expand_as(largest)
    return snapped_tensor(largest / weight_limit(bits), up=True)


def round_weight(weight: torch.Tensor, scales: torch.Tensor, *, bits: int, axis: int) -> QuantizedWeight:
    """Each weight to its nearest grid point."""
    limit = weight_limit(bits)
    stored = torch.round(weight / along(scales, axis, weight.dim())).clamp(-limit, limit)
    return QuantizedWeight(stored.to(torch.int8), scales, axis, bits)


def along(values: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """A vector shaped to broadcast along one dimension of `rank`."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def quantize_bias(bias: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int32 (channels,): the bias on the grid of the accumulator, `scales` being input x weight scale."""
    stored = torch.round(bias.double() / scales.double())
    return stored.clamp(-_BIAS_LIMIT, _BIAS_LIMIT).to(torch.int32)


def snapped(scale: float, *, up: bool = False) -> float:
    """The float16 number nearest to a scale, or the first that is no smaller; never 0 and never infinite.

    >>> snapped(0.1), snapped(0.1, up=True)
    (0.0999755859375, 0.10003662109375)
    """
    if not math.isfinite(scale):
        raise ValueError(f"a scale of {scale}")
    return float(snapped_tensor(torch.tensor(scale, dtype=torch.float64), up=up))


def snapped_tensor(scales: torch.Tensor, *, up: bool = False) -> torch.Tensor:
    """`snapped` for every element, float32."""
    scales = scales.clamp(_SMALLEST_SCALE, _LARGEST_SCALE)
    nearest = scales.half()
    if up:
        # Positive float16 numbers are in the order of their bits.
        nearest = (nearest.view(torch.int16) + (nearest < scales)).view(torch.float16)
    return nearest.float()
