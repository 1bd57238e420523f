"""What travels between devices: a frame of tensors, or of a fault, that is checked before any of it is used.

A frame is a head of 56 bytes and a body. All numbers are little-endian::

    0   magic        4s   b"EVT1"
    4   kind         B    1 tensors, 2 fault
    5   flags        B    0
    6   count        H    tensors in the body
    8   request      16s  who asked what: the same on every attempt
    24  lane         H    which of the pieces that answer one request
    26  attempt      H    how often the request was sent before
    28  generation   I    of the assignment that it is meant for
    32  remaining    I    milliseconds until nobody wants the answer any more; 2^32 - 1 for ever
    36  length       Q    bytes of the body
    44  body_crc     I    CRC-32 of the body
    48  padding      4x
    52  head_crc     I    CRC-32 of the 52 bytes before

A body of tensors has each of them one behind the other: dtype code (B), rank (B), bytes of the name (H), the
sizes (I each), the name in UTF-8, zeros up to a multiple of 16 counted from the frame's start, and the
elements in C order. That of a fault is a sentence in UTF-8. Nothing in it is ever executed or unpickled. Time
is sent as what remains of it, because clocks of devices differ.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import EdgevitError

Array = NDArray[np.generic]

_MAGIC = b"EVT1"
_TENSORS, _FAULT = 1, 2
_HEAD = struct.Struct("<4sBBH16sHHIIQI4x")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CRC.size
_ENTRY = struct.Struct("<BBH")
_ALIGNMENT = 16

#: Of a fault that is no single request's: a task cannot send anything.
NO_REQUEST = bytes(16)

#: Remaining time of a request without a deadline.
FOR_EVER = 2**32 - 1

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f2"),
    3: np.dtype("<f8"),
    4: np.dtype("i1"),
    5: np.dtype("u1"),
    6: np.dtype("<i2"),
    7: np.dtype("<i4"),
    8: np.dtype("<i8"),
    9: np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class FrameError(EdgevitError):
    """A frame that is not one, or larger than what is allowed."""


@dataclass(frozen=True)
class Limits:
    """What a frame may have at most.

    Attributes:
        bytes: of the whole frame.
        tensors: that it carries.
        rank: of each of them.
        name: bytes of each name.
    """

    bytes: int = 64 * 2**20
    tensors: int = 256
    rank: int = 8
    name: int = 255


LIMITS = Limits()


@dataclass(frozen=True)
class Envelope:
    """Whose frame it is.

    Attributes:
        request: 16 bytes, the same on every attempt.
        lane: which of the pieces that answer one request.
        attempt: how often the request was sent before.
        generation: of the assignment that it is meant for.
        remaining: milliseconds until nobody wants the answer any more, or `FOR_EVER`.
    """

    request: bytes
    lane: int = 0
    attempt: int = 0
    generation: int = 0
    remaining: int = FOR_EVER


@dataclass(frozen=True)
class Tensors:
    """A frame of tensors, by name."""

    envelope: Envelope
    tensors: Mapping[str, Array]


@dataclass(frozen=True)
class Fault:
    """A frame that says why there are none."""

    envelope: Envelope
    reason: str


def encode(frame: Tensors | Fault, limits: Limits = LIMITS) -> bytes:
    """A frame as bytes.

    Raises:
        FrameError: when it exceeds a limit, or a dtype cannot be sent.
    """
    if isinstance(frame, Fault):
        reason = frame.reason.encode("utf-8")[: limits.bytes - _HEAD_BYTES]
        return _sealed(frame.envelope, _FAULT, 0, reason)
    if len(frame.tensors) > limits.tensors:
        raise FrameError(f"{len(frame.tensors)} tensors are more than a frame's {limits.tensors}")
    body = bytearray()
    for name, value in frame.tensors.items():
        _append(body, name, value, limits)
    if _HEAD_BYTES + len(body) > limits.bytes:
        raise FrameError(f"a frame of {_HEAD_BYTES + len(body)} bytes exceeds the limit of {limits.bytes}")
    return _sealed(frame.envelope, _TENSORS, len(frame.tensors), bytes(body))


def _sealed(envelope: Envelope, kind: int, count: int, body: bytes) -> bytes:
    head = _HEAD.pack(
        _MAGIC,
        kind,
        0,
        count,
        envelope.request,
        envelope.lane,
        envelope.attempt,
        envelope.generation,
        envelope.remaining,
        len(body),
        zlib.crc32(body),
    )
    return b"".join((head, _CRC.pack(zlib.crc32(head)), body))


def _append(body: bytearray, name: str, value: Array, limits: Limits) -> None:
    code = _CODES.get(value.dtype.newbyteorder("<"))
    if code is None:
        raise FrameError(f"{name}: tensors of {value.dtype} are not sent")
    encoded = name.encode("utf-8")
    if len(encoded) > limits.name or value.ndim > limits.rank:
        raise FrameError(f"{name[:40]}: its name or rank ({value.ndim}) exceeds what a frame may have")
    body += _ENTRY.pack(code, value.ndim, len(encoded))
    body += struct.pack(f"<{value.ndim}I", *value.shape)
    body += encoded
    body += bytes(-(_HEAD_BYTES + len(body)) % _ALIGNMENT)
    body += np.ascontiguousarray(value, dtype=_DTYPES[code]).data.cast("B") if value.size else b""


def decode(data: bytes, limits: Limits = LIMITS) -> Tensors | Fault:
    """A frame from bytes; its tensors are read-only views of them.

    Raises:
        FrameError: naming what is wrong with it.
    """
    if len(data) > limits.bytes:
        raise FrameError(f"a frame of {len(data)} bytes exceeds the limit of {limits.bytes}")
    envelope, kind, count, crc = _head(data)
    body = memoryview(data)[_HEAD_BYTES:]
    if zlib.crc32(body) != crc:
        raise FrameError("the body of a frame was altered on its way: its checksum is another")
    if kind == _FAULT:
        try:
            return Fault(envelope, bytes(body).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FrameError("the sentence of a fault is not UTF-8") from error
    if kind != _TENSORS:
        raise FrameError(f"a frame of kind {kind} is unknown")
    if count > limits.tensors:
        raise FrameError(f"{count} tensors are more than a frame's {limits.tensors}")
    return Tensors(envelope, _Reader(data, limits).tensors(count))


def _head(data: bytes) -> tuple[Envelope, int, int, int]:
    """Envelope, kind, number of tensors and checksum of the body."""
    if len(data) < _HEAD_BYTES:
        raise FrameError(f"{len(data)} bytes are no frame: its head has {_HEAD_BYTES}")
    head = data[: _HEAD.size]
    magic, kind, flags, count, request, lane, attempt, generation, remaining, length, crc = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise FrameError(f"a frame starts with {_MAGIC!r}, not {magic!r}")
    if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head):
        raise FrameError("the head of a frame was altered on its way: its checksum is another")
    if flags:
        raise FrameError(f"flags {flags:#x} of a frame are unknown")
    if length != len(data) - _HEAD_BYTES:
        raise FrameError(f"a frame has {len(data) - _HEAD_BYTES} bytes in its body, its head says {length}")
    return Envelope(request, lane, attempt, generation, remaining), kind, count, crc


class _Reader:
    """Walks through the tensors of a frame, never past its end."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data, self._limits, self._at = data, limits, _HEAD_BYTES

    def tensors(self, count: int) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for _ in range(count):
            name, value = self._tensor()
            if name in found:
                raise FrameError(f"a frame has two tensors called {name!r}")
            found[name] = value
        if self._at != len(self._data):
            raise FrameError(f"{len(self._data) - self._at} bytes follow the last tensor of a frame")
        return found

    def _tensor(self) -> tuple[str, Array]:
        code, rank, length = _ENTRY.unpack(self._take(_ENTRY.size))
        dtype = _DTYPES.get(code)
        if dtype is None or rank > self._limits.rank or length > self._limits.name:
            raise FrameError(f"a tensor of dtype code {code}, rank {rank}, name of {length} bytes is refused")
        shape = struct.unpack(f"<{rank}I", self._take(4 * rank))
        try:
            name = self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FrameError("the name of a tensor is not UTF-8") from error
        self._skip(-self._at % _ALIGNMENT)
        # Python's own integers: a product that overflows would be a small one.
        size = math.prod(shape)
        start = self._skip(size * dtype.itemsize, name)
        if dtype.kind == "b" and np.frombuffer(self._data, np.uint8, size, start).max(initial=0) > 1:
            raise FrameError(f"{name}: a truth value is neither 0 nor 1")
        return name, np.frombuffer(self._data, dtype, size, start).reshape(shape)

    def _take(self, count: int) -> bytes:
        start = self._skip(count)
        return self._data[start : self._at]

    def _skip(self, count: int, what: str = "a tensor") -> int:
        """Where what is skipped starts."""
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise FrameError(f"{what}: {count} bytes are announced, {len(self._data) - start} are left")
        return start
