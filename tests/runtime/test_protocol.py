"""The Open Inference Protocol: what is read is what was meant; what cannot be is refused in a sentence."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgevit.runtime.infer_request import read_request
from edgevit.runtime.infer_response import write_response
from edgevit.runtime.protocol import RequestError, Served, TensorSpec

SERVED = Served(
    "m", TensorSpec("image", "FP32", (2, 3)), (TensorSpec("logits", "FP32", (3,)),), ("a", "b", "c"), 4
)
IMAGES = arrays.arrays(
    np.float32, st.integers(1, 4).map(lambda n: (n, 2, 3)), elements=st.floats(-100, 100, width=32)
)
GOOD = {"inputs": [{"name": "image", "shape": [1, 2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}


def body(value=None, /, **changed):
    given = {**GOOD["inputs"][0], **changed}
    given = {key: each for key, each in given.items() if each is not None}
    return json.dumps({"inputs": [given]} if value is None else value).encode()


@given(IMAGES, st.booleans(), st.booleans())
def test_tensors_arrive_as_they_were_sent(images, binary, nested):
    if binary:
        head = body(shape=images.shape, data=None, parameters={"binary_data_size": images.nbytes})
        found = read_request(SERVED, head + images.tobytes(), len(head))
    else:
        listed = images.tolist() if nested else images.ravel().tolist()
        found = read_request(SERVED, body(shape=images.shape, data=listed), None)
    np.testing.assert_array_equal(found.images, images)


BOTH = body(parameters={"binary_data_size": 24})
HEAD = body(data=None, parameters={"binary_data_size": 24})
LENGTH = len(HEAD)


@pytest.mark.parametrize(
    ("data", "length", "sentence"),
    [
        (b"", None, "is not the JSON of a request"),
        (b"[" * 200_000, None, "is not the JSON of a request"),
        (b"{}", None, "inputs: Field required"),
        (b"[]", None, "valid dictionary"),
        (body({"inputs": []}), None, "at least 1 item"),
        (body({"inputs": [GOOD["inputs"][0]] * 2}), None, "the model takes one, image"),
        (body(name="picture"), None, "inputs: picture; the model takes one, image"),
        (body(datatype="INT8"), None, "datatype INT8; the model takes FP32"),
        (body(shape=[1, 3, 2]), None, "shape [1, 3, 2]; the model takes [-1, 2, 3]"),
        (body(shape=[5, 2, 3]), None, "1 to 4 at once"),
        (body(shape=[0, 2, 3]), None, "1 to 4 at once"),
        (body(shape=[]), None, "the model takes [-1, 2, 3]"),
        (body(shape=[-1, 2, 3]), None, "greater than or equal to 0"),
        (body(data=[1, 2]), None, "2 numbers; its shape has 6"),
        (body(data=[1, 2, 3, 4, 5, "x"]), None, "not all numbers"),
        (body(data=[[1, 2], [3]]), None, "not all numbers"),
        (body(data=[1, 2, 3, 4, 5, float("nan")]), None, "is not the JSON of a request"),
        (body(parameters={"shared_memory_region": "r"}), None, "shared memory is not served"),
        (body({**GOOD, "outputs": [{"name": "logit"}]}), None, 'did you mean "logits"?'),
        (HEAD, LENGTH, "24 bytes are needed for its shape"),
        (HEAD + bytes(23), LENGTH, "and 23 follow the JSON"),
        (HEAD + bytes(25), LENGTH, "and 25 follow the JSON"),
        (HEAD, LENGTH + 1, "the body has"),
        (BOTH + bytes(24), len(BOTH), "both"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(data, length, sentence):
    with pytest.raises(RequestError) as caught:
        read_request(SERVED, data, length)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_whatever_arrives_is_read_or_refused(data):
    sent = bytearray(data.draw(st.sampled_from([HEAD + bytes(24), body()])))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([None, LENGTH, 0, 10**9]))
    try:
        found = read_request(SERVED, bytes(sent), length)
    except RequestError:
        return
    assert found.images.shape[1:] == (2, 3)


def test_an_answer_is_written_as_json_or_as_bytes_or_as_classes():
    outputs = {"logits": np.array([[1, 3, np.inf]], dtype=np.float32)}
    asked = read_request(SERVED, body({**GOOD, "id": "x"}), None)
    data, length = write_response(SERVED, asked, outputs, {})
    assert length is None
    assert json.loads(data) == {
        "model_name": "m", "model_version": "1", "id": "x",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 3.0, None]}],
    }  # fmt: skip

    asked = read_request(SERVED, body({**GOOD, "parameters": {"binary_data_output": True}}), None)
    data, length = write_response(SERVED, asked, outputs, {"degraded": True})
    assert json.loads(data[:length])["parameters"] == {"degraded": True}
    np.testing.assert_array_equal(np.frombuffer(data[length:], np.float32), outputs["logits"][0])

    wanted = [{"name": "logits", "parameters": {"classification": 2, "binary_data": True}}]
    asked = read_request(SERVED, body({**GOOD, "outputs": wanted}), None)
    data, length = write_response(SERVED, asked, {"logits": np.array([[1, 3, 2]], np.float32)}, {})
    first = b"3.000000:1:b"
    assert data[length:].startswith(struct.pack("<I", len(first)) + first)
