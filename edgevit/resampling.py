"""Resizing as model cards mean it: Pillow's filters, to the bit, on arrays.

timm's and transformers' cards say "bicubic" and mean `PIL.Image.resize`: a separable filter that widens
when shrinking, so that it never aliases. `cv2.resize` with ``INTER_CUBIC`` samples four neighbours
whatever the scale, with another cubic, and costs a trained model accuracy on large photographs.

Source: Pillow's ``src/libImaging/Resample.c`` (fixed-point coefficients of 22 bits, 8-bit values between
the horizontal and the vertical pass) and the filter definitions in its documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_PRECISION_BITS = 32 - 8 - 2
_BLOCK = 64


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


@lru_cache(maxsize=64)
def _taps(size: int, new_size: int, filter_name: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """For each new position: the source positions it reads, and their fixed-point weights.

    Returns:
        Two (taps, new_size) arrays; unused taps repeat a position with weight 0.
    """
    function, support = _FILTERS[filter_name]
    scale = size / new_size
    stretch = max(scale, 1.0)
    reach = support * stretch
    width = math.ceil(reach) * 2 + 1
    positions = np.zeros((width, new_size), dtype=np.intp)
    weights = np.zeros((width, new_size), dtype=np.int32)
    for new in range(new_size):
        centre = (new + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), size)
        raw = [function((old - centre + 0.5) / stretch) for old in range(first, last)]
        # Summed and scaled in the order Pillow does it, so that the last bit agrees.
        total = 0.0
        for value in raw:
            total += value
        for tap, value in enumerate(raw):
            share = value * (1.0 / total) * (1 << _PRECISION_BITS)
            positions[tap, new] = first + tap
            weights[tap, new] = int(share - 0.5) if share < 0 else int(share + 0.5)
    used = int(np.max(np.nonzero(weights.any(axis=1))[0])) + 1
    return positions[:used], weights[:used]


def _resample_rows(image: Image, height: int, filter_name: str) -> Image:
    positions, weights = _taps(image.shape[0], height, filter_name)
    result = np.empty((height, *image.shape[1:]), dtype=np.uint8)
    # A block of columns at a time, so that the 32-bit sums stay in the processor's cache.
    for start in range(0, image.shape[1], _BLOCK):
        block = np.ascontiguousarray(image[:, start : start + _BLOCK])
        total = np.full((height, *block.shape[1:]), 1 << (_PRECISION_BITS - 1), dtype=np.int32)
        for position, weight in zip(positions, weights, strict=True):
            total += block[position] * weight[:, None, None]
        result[:, start : start + _BLOCK] = np.clip(total >> _PRECISION_BITS, 0, 255)
    return result


def _nearest(image: Image, height: int, width: int) -> Image:
    return image[_centres(image.shape[0], height)][:, _centres(image.shape[1], width)]


def _centres(size: int, new_size: int) -> npt.NDArray[np.intp]:
    # Summed step by step, as Pillow does: at exact halves the last bit decides.
    scale = size / new_size
    steps = np.full(new_size, scale)
    steps[0] = scale * 0.5
    return np.cumsum(steps).astype(np.intp)


def resize(image: Image, height: int, width: int, interpolation: str) -> Image:
    """Resize as ``PIL.Image.resize((width, height), interpolation)`` does, the width first.

    Pillow 13 resizes the height first where that is less work, which can change a value by a few
    levels; the order kept here is the one every published model was evaluated with.

    Args:
        image: (height, width, channels) uint8.
        height: new height in pixels.
        width: new width in pixels.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
    """
    if interpolation == "nearest":
        return _nearest(image, height, width)
    if image.shape[1] != width:
        image = _resample_rows(image.transpose(1, 0, 2), width, interpolation).transpose(1, 0, 2)
    if image.shape[0] != height:
        image = _resample_rows(image, height, interpolation)
    return np.ascontiguousarray(image)
