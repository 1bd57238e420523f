"""Which operator of a TFLite file each of those belongs to that XNNPACK made of them.

The delegate keeps their order, makes one of most, none of some that others take in, and puts
some that copy or reshape between them, which belong to the one before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from edgevit.errors import EdgevitError

# What XNNPACK calls operators of TFLite; those that it calls the same but for the letters are left out.
_NAMES = {
    "AVERAGE_POOL_2D": "average pooling",
    "BATCH_MATMUL": "batch matrix multiply",
    "CAST": "convert",
    "CONCATENATION": "copy",
    "DEPTHWISE_CONV_2D": "convolution",
    "DEQUANTIZE": "convert",
    "DIV": "divide",
    "HARD_SWISH": "hardswish",
    "LOGISTIC": "sigmoid",
    "MAXIMUM": "clamp",
    "MAX_POOL_2D": "max pooling",
    "MEAN": "mean",
    "MINIMUM": "clamp",
    "MUL": "multiply",
    "PAD": "constant pad",
    "QUANTIZE": "convert",
    "RELU": "clamp",
    "RELU6": "clamp",
    "RESHAPE": "static reshape",
    "RSQRT": "reciprocal square root",
    "SQRT": "square root",
    "STRIDED_SLICE": "slice",
    "SUB": "subtract",
}

# The delegate makes either of a convolution of single pixels, and one of two operators in a row.
_ALIKE = {
    "conv 2d": "convolution",
    "fully connected": "convolution",
    "mean squared": "mean",
    "normalize": "sum",
}

# Of its own making.
_BETWEEN = ("static reshape", "copy")


def places_of(
    kinds: Sequence[str], ran: Sequence[tuple[int | None, str]], parts: Sequence[Sequence[int]]
) -> list[int | None]:
    """For each operator that ran the place of the one of the file that it belongs to; None where unsure.

    Args:
        kinds: of the file's operators.
        ran: in order, each with its place in the file, None for those of the delegate, and its kind.
        parts: the places of the operators that the delegate took, for each run of its own without another
            between them.

    Raises:
        EdgevitError: when the delegate ran in other parts than these.
    """
    runs = [
        [kind for _, kind in several]
        for delegated, several in groupby(ran, key=lambda one: one[0] is None)
        if delegated
    ]
    if len(runs) != len(parts):
        raise EdgevitError(
            f"LiteRT's delegate ran in {len(runs)} parts and took {len(parts)}: its operators cannot be told "
            "apart; use another release of ai-edge-litert"
        )
    found = iter(
        None if at is None else part[at]
        for part, made in zip(parts, runs, strict=True)
        for at in align([kinds[place] for place in part], made)
    )
    return [next(found) if place is None else place for place, _ in ran]


def align(kinds: Sequence[str], made: Sequence[str]) -> list[int | None]:
    """For each operator of the delegate the place of that of the file which it belongs to; None where unsure.

    By the longest common subsequence (Wagner, Fischer, 1974).

    Args:
        kinds: of the file's operators that the delegate took, in order; not empty.
        made: names that the delegate gives to those that it runs, in order: ``Add (ND)``.
    """
    left, right = [_of_file(kind) for kind in kinds], [_of_delegate(name) for name in made]
    lengths = _common(left, right)
    found: list[int | None] = []
    place, last = 0, 0
    for number, name in enumerate(right):
        while place < len(left) and lengths[place + 1][number] == lengths[place][number] > 0:
            # As good without this one of the file.
            place += 1
        if place < len(left) and left[place] == name and lengths[place][number] > lengths[place][number + 1]:
            last, place = place, place + 1
            found.append(last)
        else:
            found.append(last if name in _BETWEEN else None)
    return found


def _common(left: Sequence[str], right: Sequence[str]) -> list[list[int]]:
    """Lengths of the longest common subsequences of all that is left behind two places."""
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for row in range(len(left) - 1, -1, -1):
        behind, here = lengths[row + 1], lengths[row]
        for column in range(len(right) - 1, -1, -1):
            if left[row] == right[column]:
                here[column] = behind[column + 1] + 1
            else:
                here[column] = max(behind[column], here[column + 1])
    return lengths


def _of_file(kind: str) -> str:
    name = _NAMES.get(kind, kind.lower().replace("_", " "))
    return _ALIKE.get(name, name)


def _of_delegate(name: str) -> str:
    short = re.sub(r" \(.*", "", name).lower()
    return _ALIKE.get(short, short)
