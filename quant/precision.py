"""How many bits: the names under which people ask for a quantization."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.errors import EdgevitError, closest


@dataclass(frozen=True)
class BitWidths:
    """Bits of weights and of activations; None leaves activations float."""

    weights: int
    activations: int | None


BIT_WIDTHS: dict[str, BitWidths] = {
    "w8a8": BitWidths(8, 8),
    "w8a16": BitWidths(8, 16),
    "w6a6": BitWidths(6, 6),
    "w4a8": BitWidths(4, 8),
    "w4a4": BitWidths(4, 4),
    "w8": BitWidths(8, None),
}


def bit_widths(name: str) -> BitWidths:
    """The bits that a name stands for.

    Raises:
        EdgevitError: when it is unknown.
    """
    if name not in BIT_WIDTHS:
        raise EdgevitError(f"--quantize: {name!r} is unknown; {closest(name, BIT_WIDTHS)}")
    return BIT_WIDTHS[name]
