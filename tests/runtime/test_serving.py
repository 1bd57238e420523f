"""The front door, served in a process of its own and asked by the real tritonclient."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("aiohttp")

from edgevit.cli import run
from edgevit.pruning.split import read_split
from edgevit.runtime.service import Bucket
from tests.pruning.patterns import patterns
from tests.runtime.conftest import images

START = "from edgevit.cli import main; main()"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(plan, log, *words):
    """A process that serves a plan on local workers, and its address."""
    port = free_port()
    command = ["serve", str(plan), "--local", "--http", str(port), *words]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert f"at http://127.0.0.1:{port}/v2" in process.stdout.readline()
    yield process, f"127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "log"


@pytest.fixture(scope="module")
def served(make_plan, log):
    with serving(make_plan("pipeline"), log, "--max-request", "100k") as (_, address):
        yield address


@pytest.fixture(scope="module")
def client(served):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(served, concurrency=4) as made:
        yield made


def post(address, path, data, **headers):
    """Status and JSON of an answer."""
    request = urllib.request.Request(f"http://{address}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - http
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_tritonclient_sees_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["name"] == "edgevit"
    found = client.get_model_metadata("tiny")
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_infers(client, tiny_program, binary):
    from tritonclient.http import InferInput, InferRequestedOutput

    sent = images(5)[:, 0]
    given = InferInput("image", list(sent.shape), "FP32")
    given.set_data_from_numpy(sent, binary_data=binary)
    result = client.infer(
        "tiny", [given], outputs=[InferRequestedOutput("logits", binary_data=binary)], request_id="7"
    )
    np.testing.assert_allclose(result.as_numpy("logits"), tiny_program.run(sent)[0], atol=1e-5)
    assert result.get_response()["id"] == "7"
    for compression in ("gzip", "deflate"):
        packed = client.infer("tiny", [given], request_compression_algorithm=compression)
        np.testing.assert_array_equal(packed.as_numpy("logits"), result.as_numpy("logits"))


def test_tritonclient_gets_classes(client, tiny_program):
    from tritonclient.http import InferInput, InferRequestedOutput

    sent = images(1)[0]
    given = InferInput("image", list(sent.shape), "FP32")
    given.set_data_from_numpy(sent)
    result = client.infer("tiny", [given], outputs=[InferRequestedOutput("logits", class_count=2)])
    best = result.as_numpy("logits")[0][0].decode().split(":")
    logits = tiny_program.run(sent)[0][0]
    assert best[1:] == [str(logits.argmax()), tiny_program.card.labels[logits.argmax()]]


def test_tritonclient_asks_many_at_once(client, tiny_program):
    from tritonclient.http import InferInput

    sent = images(24)
    asked = []
    for image in sent:
        given = InferInput("image", list(image.shape), "FP32")
        given.set_data_from_numpy(image)
        asked.append(client.async_infer("tiny", [given]))
    found = np.concatenate([each.get_result().as_numpy("logits") for each in asked])
    np.testing.assert_allclose(found, tiny_program.run(sent[:, 0])[0], atol=1e-5)


def test_tritonclient_is_told_what_is_wrong(client):
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    given = InferInput("image", [1, 3, 8, 8], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(InferenceServerException, match=r"the model takes \[-1, 3, 16, 16\]"):
        client.infer("tiny", [given])
    with pytest.raises(InferenceServerException, match="known: tiny"):
        client.get_model_metadata("huge")


def test_an_image_file_gives_labels(served):
    _, jpeg = cv2.imencode(".jpg", np.full((40, 60, 3), 128, np.uint8))
    status, found = post(served, "/v2/models/tiny/infer", jpeg.tobytes(), **{"Content-Type": "image/jpeg"})
    assert status == 200
    assert {each["label"] for each in found["classes"]} == {"circle", "square", "cross"}
    assert sum(each["probability"] for each in found["classes"]) == pytest.approx(1)
    assert found["degraded"] is False


TRUNCATED = json.dumps(
    {
        "inputs": [
            {
                "name": "image",
                "shape": [1, 3, 16, 16],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 3072},
            }
        ]
    }
).encode()


@pytest.mark.parametrize(
    ("path", "data", "headers", "status", "sentence"),
    [
        ("/v2/models/tiny/infer", b"{", {}, 400, "is not the JSON of a request"),
        ("/v2/models/tiny/infer", b"x" * 200_000, {}, 413, "larger than 100000 bytes"),
        ("/v2/models/tiny/infer", b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "is no number"),
        (
            "/v2/models/tiny/infer",
            TRUNCATED + bytes(3071),
            {"Inference-Header-Content-Length": str(len(TRUNCATED))},
            400,
            "and 3071 follow the JSON",
        ),
        ("/v2/models/tiny/infer", b"GIF", {"Content-Type": "image/jpeg"}, 400, "is not an image"),
        ("/v2/models/tiny/infer", b"", {"Content-Type": "image/png"}, 400, "is empty"),
        ("/v2/models/..%2f..%2fetc/infer", b"{}", {}, 404, "known: tiny"),
        ("/v1/models", b"{}", {}, 404, "Not Found"),
        ("/v2/health/live", b"{}", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_refused_is_one_sentence_and_the_service_goes_on(
    served, log, path, data, headers, status, sentence
):
    before = log.read_text()
    found, value = post(served, path, data, **headers)
    assert found == status
    assert sentence in value["error"]
    assert "\n" not in value["error"]
    assert log.read_text().removeprefix(before).count("\n") == 1
    with urllib.request.urlopen(f"http://{served}/v2/health/ready") as answer:
        assert answer.status == 200


def test_a_request_that_announces_two_gigabytes_is_refused_before_it_is_sent(served):
    host, port = served.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n\r\n"
            + b"x" * 300_000
        )
        assert b" 413 " in connection.recv(4096)


@pytest.mark.slow
def test_more_than_may_wait_are_told_to_come_back(make_plan):
    port = free_port()
    words = [
        "serve",
        str(make_plan("pipeline")),
        "--local",
        "--http",
        str(port),
        "--rate",
        "10",
        "--no-spares",
    ]
    process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        value = {
            "inputs": [{"name": "image", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": [0.0] * 768}]
        }
        data = json.dumps(value).encode()
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, f"127.0.0.1:{port}", "/v2/models/tiny/infer", data) for _ in range(60)]
        statuses = [each.result()[0] for each in asked]
        assert set(statuses) == {200, 429}
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_tokens_come_back_at_their_rate():
    bucket = Bucket(2.0)
    assert [bucket.take(1), bucket.take(1), bucket.take(1)] == [True, True, False]
    bucket._since -= 0.6
    assert bucket.take(5)
    assert not bucket.take(1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--http", "0"], "--http 0: a port is 1 to 65535"),
        (["--http", "8000", "--host", "192.168.1.1"], "--insecure"),
        (["--http", "8000", "--queue", "0"], "--queue: must be above 0"),
        (["--http", "8000", "--max-request", "big"], "--max-request big"),
        ([], "--http"),
    ],
)
def test_a_mistake_of_the_command_is_one_sentence(make_plan, capsys, words, sentence):
    assert run(["serve", str(make_plan("pipeline")), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_what_was_done_is_counted_for_prometheus(served, client):
    from tritonclient.http import InferInput

    sent = images(3)[:, 0]
    given = InferInput("image", list(sent.shape), "FP32")
    given.set_data_from_numpy(sent)
    before = metrics(served)
    client.infer("tiny", [given])
    after = metrics(served)
    assert (
        after['edgevit_requests_total{outcome="answered"}']
        == before['edgevit_requests_total{outcome="answered"}'] + 1
    )
    for place, device in enumerate(("w-1", "w-2", "w-3")):
        runs = f'edgevit_task_runs_total{{device="{device}",task="stage-0-{place}"}}'
        assert after[runs] == before[runs] + 3
        assert after[f'edgevit_device_answers{{device="{device}"}}'] == 1


def infer(address, image):
    """Logits of an image."""
    data = image.ravel().tolist()
    given = {"name": "image", "shape": list(image.shape), "datatype": "FP32", "data": data}
    status, found = post(address, "/v2/models/patterns/infer", json.dumps({"inputs": [given]}).encode())
    assert status == 200, found
    return np.array(found["outputs"][0]["data"], np.float32), found.get("parameters", {})


def worker_of(process, name):
    """The process of a local worker."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    for child in (word for path in lists for word in path.read_text().split()):
        if f"--name\0{name}\0" in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError(name)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_an_ensemble_is_served_and_loses_a_worker_meanwhile(ensemble, tmp_path):
    split = read_split(ensemble.parent / "split")
    sent = patterns(12, seed=3)[0].numpy()[:, None]
    expected = split.predict(sent[:, 0])
    with serving(ensemble, tmp_path / "log", "--name", "patterns") as (process, address):
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(infer, address, sent[place % 12]) for place in range(60)]
            asked[10].result()
            os.kill(worker_of(process, "w-3"), signal.SIGKILL)
            found = [each.result() for each in asked]
        for place, (logits, parameters) in enumerate(found):
            if not parameters.get("degraded"):
                np.testing.assert_allclose(logits, expected[place % 12], atol=1e-4)
        # Whole again, on the others.
        logits, parameters = infer(address, sent[0])
        np.testing.assert_allclose(logits, expected[0], atol=1e-4)
        assert parameters == {}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_a_pipeline_that_loses_a_worker_meanwhile_answers_all(make_plan, tiny_program, tmp_path):
    sent = images(40)
    with serving(make_plan("pipeline"), tmp_path / "log", "--name", "patterns") as (process, address):
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(infer, address, image) for image in sent]
            asked[10].result()
            os.kill(worker_of(process, "w-2"), signal.SIGKILL)
            found = np.stack([each.result()[0] for each in asked])
        np.testing.assert_allclose(found, tiny_program.run(sent[:, 0])[0], atol=1e-5)
        assert metrics(address)["edgevit_plan_changes_total"] == 1


def metrics(address):
    """Values by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
