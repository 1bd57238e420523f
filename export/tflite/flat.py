"""A bounds-checked reader of flatbuffers, for files that nobody has vouched for.

Layout, from the FlatBuffers internals page: an offset to the root table; a table begins with the signed
distance back to its vtable, which lists where each field lies in the table (0: absent, the default);
strings and vectors begin with their length. All little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SIZES = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}


class FlatError(ValueError):
    """The bytes are no flatbuffer of the expected shape."""


@dataclass(frozen=True)
class Table:
    """A table in a flatbuffer; fields are named by their number in the schema.

    Attributes:
        data: the whole flatbuffer.
        position: where the table begins.
    """

    data: memoryview
    position: int

    @classmethod
    def root(cls, data: bytes | memoryview, identifier: bytes) -> Table:
        """The root table.

        Raises:
            FlatError: when the file identifier is another.
        """
        data = memoryview(data)
        if bytes(data[4:8]) != identifier:
            raise FlatError(f"its file identifier is not {identifier.decode()}")
        return cls(data, _read(data, 0, "I")).checked()

    def checked(self) -> Table:
        """This table, if it, its vtable and every field's place lie inside the data."""
        start, entries = self._vtable()
        size = _read(self.data, start + 2, "H")
        if size < 4 or self.position + size > len(self.data):
            raise FlatError("a table reaches past its end")
        for entry in range(entries):
            if _read(self.data, start + 4 + 2 * entry, "H") >= size:
                raise FlatError("a field lies outside its table")
        return self

    def _vtable(self) -> tuple[int, int]:
        start = self.position - _read(self.data, self.position, "i")
        size = _read(self.data, start, "H")
        if size < 4 or size % 2 or start + size > len(self.data):
            raise FlatError("a table's list of fields reaches past its end")
        return start, (size - 4) // 2

    def _field(self, number: int) -> int | None:
        start, entries = self._vtable()
        offset = _read(self.data, start + 4 + 2 * number, "H") if number < entries else 0
        return self.position + offset if offset else None

    def scalar(self, number: int, kind: str, default: int = 0) -> int:
        """A number field; `kind` is its `struct` letter."""
        place = self._field(number)
        return default if place is None else int(_read(self.data, place, kind))

    def table(self, number: int) -> Table | None:
        """A table field, or None where it is absent."""
        place = self._target(number)
        return None if place is None else Table(self.data, place).checked()

    def vector(self, number: int, kind: str) -> memoryview | None:
        """A vector of numbers as raw bytes, or None where it is absent."""
        place = self._target(number)
        if place is None:
            return None
        start, end = place + 4, place + 4 + _read(self.data, place, "I") * _SIZES[kind]
        if end > len(self.data):
            raise FlatError("a vector reaches past its end")
        return self.data[start:end]

    def numbers(self, number: int, kind: str) -> tuple[float, ...]:
        """A vector of numbers, empty where it is absent."""
        raw = self.vector(number, kind)
        return () if raw is None else tuple(value for (value,) in struct.iter_unpack("<" + kind, raw))

    def tables(self, number: int) -> list[Table]:
        """A vector of tables, empty where it is absent."""
        return [Table(self.data, place).checked() for place in self._targets(number)]

    def texts(self, number: int) -> list[str]:
        """A vector of strings, empty where it is absent."""
        return [_text(self.data, place) for place in self._targets(number)]

    def text(self, number: int) -> str | None:
        """A string field, or None where it is absent."""
        place = self._target(number)
        return None if place is None else _text(self.data, place)

    def _target(self, number: int) -> int | None:
        place = self._field(number)
        return None if place is None else place + _read(self.data, place, "I")

    def _targets(self, number: int) -> Iterator[int]:
        place = self._target(number)
        if place is None:
            return
        for index in range(_read(self.data, place, "I")):
            entry = place + 4 + 4 * index
            yield entry + _read(self.data, entry, "I")


def _text(data: memoryview, place: int) -> str:
    length = _read(data, place, "I")
    if place + 4 + length > len(data):
        raise FlatError("a string reaches past its end")
    return bytes(data[place + 4 : place + 4 + length]).decode("utf-8", "replace")


def _read(data: memoryview, place: int, kind: str) -> int:
    if not 0 <= place <= len(data) - _SIZES[kind]:
        raise FlatError("an offset points outside it")
    value: int = struct.unpack_from("<" + kind, data, place)[0]
    return value
