"""Seals: a protocol-buffer file that ends with the SHA-256 of what is before.

A model file has no checksum of its own: a flipped bit in a weight goes unseen. Serialised messages that
are concatenated merge (Protocol Buffers, "Encoding"), so one more metadata entry may be appended to any
model: every reader sees one more line of metadata, and whoever knows the entry's length checks it without
parsing what it guards.
"""

from __future__ import annotations

from collections.abc import Sequence

KEY = "edgevit.sha256"
_DIGITS = 64
_LENGTH_DELIMITED = 2


def sealed(content: bytes, digest: str, place: Sequence[int]) -> bytes:
    """The content with its seal.

    Args:
        content: a serialised message.
        digest: hex SHA-256 of what is guarded.
        place: field numbers that lead from the message to a string-to-string entry of its metadata.
    """
    return content + _entry(digest, place)


def unsealed(content: bytes, place: Sequence[int]) -> tuple[bytes, str | None]:
    """What was sealed, and the digest in its seal; None where there is none.

    A file that another tool has saved again has the entry somewhere else, if at all: no seal.
    """
    opening = _entry("0" * _DIGITS, place)[:-_DIGITS]
    body, digest = content[:-_DIGITS], content[-_DIGITS:]
    if not body.endswith(opening):
        return content, None
    return body.removesuffix(opening), digest.decode("ascii", "replace")


def _entry(digest: str, place: Sequence[int]) -> bytes:
    entry = _field(1, KEY.encode()) + _field(2, digest.encode())
    for number in reversed(place):
        entry = _field(number, entry)
    return entry


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    r"""Seven bits a byte, the lowest first; the eighth says that more follow.

    >>> _varint(2), _varint(802)
    (b'\x02', b'\xa2\x06')
    """
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
