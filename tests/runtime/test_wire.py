"""Frames: what is sent is what arrives, and what was altered on the way is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgevit.runtime import wire
from edgevit.runtime.wire import FOR_EVER, Envelope, Fault, FrameError, Limits, Tensors, decode, encode

DTYPES = ("f4", "f2", "f8", "i1", "u1", "i2", "i4", "i8", "?")

envelopes = st.builds(
    Envelope,
    request=st.binary(min_size=16, max_size=16),
    lane=st.integers(0, 2**16 - 1),
    attempt=st.integers(0, 2**16 - 1),
    generation=st.integers(0, 2**32 - 1),
    remaining=st.integers(0, FOR_EVER),
)
values = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))
)
frames = st.one_of(
    st.builds(Tensors, envelopes, st.dictionaries(st.text(max_size=20), values, max_size=4)),
    st.builds(Fault, envelopes, st.text(max_size=80)),
)
SMALL = Tensors(Envelope(bytes(range(16))), {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})


@given(frames)
def test_what_is_sent_is_what_arrives(frame):
    found = decode(encode(frame))
    assert found.envelope == frame.envelope
    if isinstance(frame, Fault):
        assert found == frame
        return
    assert list(found.tensors) == list(frame.tensors)
    for name, value in frame.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert found.tensors[name].shape == value.shape
        assert found.tensors[name].tobytes() == value.tobytes()


@given(frames, st.data())
def test_any_altered_bit_is_noticed(frame, data):
    sent = bytearray(encode(frame))
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameError):
        decode(bytes(sent))


@given(frames, st.data())
def test_a_truncated_frame_is_refused(frame, data):
    sent = encode(frame)
    with pytest.raises(FrameError):
        decode(sent[: data.draw(st.integers(0, len(sent) - 1))])


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data):
    with pytest.raises(FrameError):
        decode(data)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_a_hostile_body_with_right_checksums_is_refused_or_harmless(body, count):
    frame = wire._sealed(Envelope(bytes(16)), 1, count, body)
    try:
        found = decode(frame)
    except FrameError:
        return
    assert sum(value.nbytes for value in found.tensors.values()) <= len(body)


def test_a_tensor_cannot_announce_more_than_the_frame_has():
    body = wire._ENTRY.pack(1, 4, 1) + wire.struct.pack("<4I", *[2**32 - 1] * 4) + b"x"
    with pytest.raises(FrameError, match="are announced"):
        decode(wire._sealed(Envelope(bytes(16)), 1, 1, body))


def test_elements_lie_where_kernels_want_them():
    assert decode(encode(SMALL)).tensors["x"].flags.aligned


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(bytes=80), "exceeds the limit of 80"),
        (Limits(tensors=0), "more than a frame's 0"),
        (Limits(rank=1), "rank"),
        (Limits(name=0), "name"),
    ],
)
def test_limits_hold_on_both_sides(limits, words):
    with pytest.raises(FrameError, match=words):
        encode(SMALL, limits)
    with pytest.raises(FrameError, match=words):
        decode(encode(SMALL), limits)


def test_what_cannot_be_sent_is_said():
    with pytest.raises(FrameError, match="x: tensors of object are not sent"):
        encode(Tensors(Envelope(bytes(16)), {"x": np.array([{}])}))
