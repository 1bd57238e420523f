"""Requests altered at random, the same way each time for one seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

EXTREME = (
    "-1",
    "0",
    "4294967296",
    "9223372036854775808",
    "1e999",
    "NaN",
    "null",
    '"x"',
    "[[[[",
    "{}",
    "true",
)
# What is put where values are.
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**64, 1e308, "", "x" * 300, "\u0000", "../../etc/passwd", [], {},
    [[]] * 9, {"a": {}}, [1] * 9, "image", "FP32", "BYTES",
)  # fmt: skip


class Mutator:
    """Alters requests; the same way each time for one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - not a secret

    def bytes(self, data: bytes) -> bytes:
        altered = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            self.random.choice((self._flip, self._cut, self._put, self._repeat, self._extreme))(altered)
        return bytes(altered)

    def _span(self, data: bytearray) -> slice:
        start = self.random.randint(0, len(data))
        return slice(start, start + self.random.choice((1, 2, 4, 16, 256)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _cut(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _put(self, data: bytearray) -> None:
        place = self._span(data).start
        data[place:place] = self.random.randbytes(self.random.choice((1, 2, 4, 64)))

    def _repeat(self, data: bytearray) -> None:
        span = self._span(data)
        data[span.start : span.start] = data[span] * self.random.choice((1, 2, 50))

    def _extreme(self, data: bytearray) -> None:
        digits = [place for place, byte in enumerate(data[:600]) if 48 <= byte < 58]
        if digits:
            place = self.random.choice(digits)
            data[place : place + 1] = self.random.choice(EXTREME).encode()

    def json(self, value: Any) -> bytes:
        """A JSON body with one of its values replaced, left out or added to."""
        altered = copy.deepcopy(value)
        holder, key = self.random.choice(list(_places(altered)))
        if self.random.random() < 0.2:
            del holder[key]
        else:
            holder[key] = self.random.choice(_VALUES)
        return json.dumps(altered).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where a JSON value has others, as a container and a key; of long lists the first ones."""
    keys = list(value) if isinstance(value, dict) else range(min(4, len(value)))
    for key in keys if isinstance(value, dict | list) else ():
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
