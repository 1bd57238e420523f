"""The front door over gRPC, asked by the real tritonclient."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("zenoh")
pytest.importorskip("aiohttp")

import tritonclient.grpc as triton
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from edgevit.runtime.grpc_messages import MESSAGES
from tests.runtime.conftest import images
from tests.runtime.test_serving import START, free_port

NESTED = {
    "TensorMetadata": service_pb2.ModelMetadataResponse.TensorMetadata,
    "InferInputTensor": service_pb2.ModelInferRequest.InferInputTensor,
    "InferRequestedOutputTensor": service_pb2.ModelInferRequest.InferRequestedOutputTensor,
    "InferOutputTensor": service_pb2.ModelInferResponse.InferOutputTensor,
    "Parameter": service_pb2.ModelInferRequest.ParametersEntry,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_those_of_the_published_definition(name):
    theirs = NESTED.get(name) or getattr(service_pb2, name)
    for field in MESSAGES[name].DESCRIPTOR.fields:
        published = theirs.DESCRIPTOR.fields_by_name[field.name]
        assert (field.number, field.type) == (published.number, published.type)
        assert is_list(field) == is_list(published)


def is_list(field: FieldDescriptor) -> bool:
    return field.is_repeated


@pytest.fixture(scope="module")
def client(make_plan):
    http, grpc = free_port(), free_port()
    words = ["serve", str(make_plan("single")), "--local", "--http", str(http), "--grpc", str(grpc)]
    words += ["--no-spares", "--max-request", "100k"]
    process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with triton.InferenceServerClient(f"127.0.0.1:{grpc}") as made:
        yield made
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def given(value: np.ndarray) -> triton.InferInput:
    made = triton.InferInput("image", list(value.shape), "FP32")
    made.set_data_from_numpy(value)
    return made


def test_tritonclient_sees_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_server_metadata().name == "edgevit"
    found = client.get_model_metadata("tiny")
    assert [(each.name, each.datatype, list(each.shape)) for each in found.inputs] == [
        ("image", "FP32", [-1, 3, 16, 16])
    ]


def test_tritonclient_infers(client, tiny_program):
    sent = images(5)[:, 0]
    result = client.infer("tiny", [given(sent)], request_id="7")
    np.testing.assert_allclose(result.as_numpy("logits"), tiny_program.run(sent)[0], atol=1e-5)
    assert result.get_response().id == "7"
    best = client.infer("tiny", [given(sent)], outputs=[triton.InferRequestedOutput("logits", class_count=1)])
    classes = [int(row[0].decode().split(":")[1]) for row in best.as_numpy("logits")]
    assert classes == tiny_program.run(sent)[0].argmax(1).tolist()


def test_tritonclient_is_told_what_is_wrong(client):
    for name, value, sentence in [
        ("tiny", np.zeros((1, 3, 8, 8), np.float32), r"the model takes \[-1, 3, 16, 16\]"),
        ("huge", np.zeros((1, 3, 16, 16), np.float32), "known: tiny"),
        ("tiny", np.zeros((60, 3, 16, 16), np.float32), "larger than max"),
    ]:
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer(name, [given(value)])
    assert client.is_server_ready()
