"""Mutated requests to both front doors: no crash, no leak, and good requests are answered as before.

    python benchmarks/fuzz.py --http 60000 --grpc 40000

Good requests (tensors in JSON and as bytes, image files, questions) are altered: bytes flipped, cut out, put
in and repeated, numbers made extreme, values of the JSON replaced, the head of HTTP as well. What a door may
answer is a refusal of the request, or an answer where it is still good; anything that blames the server
counts as a failure, as do memory or file descriptors that grow over the second half.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import grpc
import numpy as np
from mutations import EXTREME, Mutator
from processes import Watch
from served import Served, serving
from soak import ask, connect, request

from edgevit.runtime.grpc_messages import MESSAGES, SERVICE

# Growth within the second half that is no leak: what allocators keep and give back, 7 MB in one run.
MOST_MEGABYTES, MOST_FILES = 10.0, 4
SECONDS = 20.0


class Http:
    """Mutated requests over HTTP, one after the other."""

    def __init__(self, served: Served, seed: int) -> None:
        self._port, self._mutator, self._socket = served.http, Mutator(seed), None
        image = served.images[0]
        self._binary, self._binary_headers = request(image)
        self._json = {
            "id": "7",
            "inputs": [
                {"name": "image", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": image.ravel().tolist()}
            ],
            "outputs": [{"name": "logits", "parameters": {"classification": 2, "binary_data": True}}],
            "parameters": {"timeout": 5_000_000, "binary_data_output": True},
        }
        pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
        self._files = {
            kind: cv2.imencode(f".{kind}", pixels)[1].tobytes() for kind in ("jpeg", "png", "webp")
        }

    def one(self) -> str:
        """What came of one more."""
        choose = self._mutator.random
        path, headers, body = self._altered()
        if choose.random() < 0.1:
            path = (
                self._mutator.bytes(path.encode()).decode("latin-1").translate({10: None, 13: None, 32: None})
            )
        method = b"POST" if body else b"GET"
        lines = [f"{name}: {value}".encode() for name, value in headers.items()]
        lines += [b"Host: x", b"Content-Length: %d" % len(body)]
        head = b"\r\n".join((method + b" " + path.encode("latin-1") + b" HTTP/1.1", *lines)) + b"\r\n\r\n"
        if choose.random() < 0.1:
            # Whatever follows on this connection would be misread.
            return self._sent(self._mutator.bytes(head) + body, last=True)
        return self._sent(head + body, last=False)

    def _altered(self) -> tuple[str, dict[str, str], bytes]:
        mutator, infer = self._mutator, "/v2/models/tiny/infer"
        kind = mutator.random.choice(("values", "json", "binary", "binary", "length", "file", "question"))
        if kind == "values":
            return infer, {}, mutator.json(self._json)
        if kind == "json":
            return infer, {}, mutator.bytes(json.dumps(self._json).encode())
        if kind == "binary":
            return infer, self._binary_headers, mutator.bytes(self._binary)
        if kind == "length":
            length = mutator.random.choice((*EXTREME, str(mutator.random.randint(0, 4000))))
            return infer, {"Inference-Header-Content-Length": length}, self._binary
        if kind == "file":
            name = mutator.random.choice(list(self._files))
            return infer, {"Content-Type": f"image/{name}"}, mutator.bytes(self._files[name])
        paths = ("/v2", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/versions/1/ready", "/metric")
        return mutator.random.choice(paths), {}, b""

    def _sent(self, data: bytes, *, last: bool) -> str:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), SECONDS)
        try:
            self._socket.sendall(data)
            if last:
                self._socket.shutdown(socket.SHUT_WR)
            status, closed = _answer(self._socket)
        except TimeoutError:
            status, closed = "hung", True
        except OSError:
            status, closed = "closed", True
        if closed or last:
            self._socket.close()
            self._socket = None
        return status


def _answer(connection: socket.socket) -> tuple[str, bool]:
    """The status of an answer, and whether it is the connection's last."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1 << 16)
        if not more:
            return "closed", True
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
    while len(body) < length:
        body += connection.recv(1 << 16)
    return lines[0].split()[1].decode(), b"connection: close" in lines


class Grpc:
    """Mutated messages over gRPC, one after the other, and now and then bytes that are none."""

    def __init__(self, served: Served, seed: int) -> None:
        self._mutator, self._port = Mutator(seed), served.grpc
        self._channel = grpc.insecure_channel(f"127.0.0.1:{served.grpc}")
        image = served.images[0]
        given = {"name": "image", "datatype": "FP32", "shape": [1, *image.shape]}
        listed = {**given, "contents": {"fp32_contents": image.ravel().tolist()}}
        asked, infer = {"model_name": "tiny"}, MESSAGES["ModelInferRequest"]
        raw = infer(**asked, id="7", inputs=[given], raw_input_contents=[image.tobytes()])
        raw.outputs.add(name="logits").parameters.add(key="classification").value.int64_param = 2
        self._messages = [
            ("ModelInfer", raw.SerializeToString()),
            ("ModelInfer", infer(**asked, inputs=[listed]).SerializeToString()),
            ("ModelMetadata", MESSAGES["ModelMetadataRequest"](name="tiny", version="1").SerializeToString()),
        ]

    def one(self) -> str:
        """What came of one more."""
        choose = self._mutator.random
        method, message = choose.choice(self._messages)
        if choose.random() < 0.01:
            return self._garbage(self._mutator.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + message[:200]))
        call = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            call(self._mutator.bytes(message), timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def _garbage(self, data: bytes) -> str:
        with socket.create_connection(("127.0.0.1", self._port), SECONDS) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            except TimeoutError:
                return "hung"
            except OSError:
                return "closed"
        return "closed"


def fuzz(one: Callable[[], str], count: int, watch: Watch) -> Counter[str]:
    """What came of so many, sampled on the way."""
    found, every = Counter[str](), max(1, count // 40)
    for number in range(count):
        if number % every == 0:
            watch.sample(number / 1000)
        found[one()] += 1
    watch.sample(count / 1000)
    return found


#: What a door may answer: it blames who asked, or says that there is no place.
FINE = {
    "HTTP": {"200", "400", "404", "405", "408", "411", "413", "415", "417", "429", "431", "503", "closed"},
    "gRPC": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "closed"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--http", type=int, default=60_000, help="requests; 0 for none")
    parser.add_argument("--grpc", type=int, default=40_000, help="likewise over gRPC")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as name, serving(Path(name), "--max-request", "100k") as served:
        doors = (("HTTP", Http, options.http), ("gRPC", Grpc, options.grpc))
        for door, kind, count in doors:
            if count == 0:
                continue
            watch = Watch(served.processes())
            found = fuzz(kind(served, options.seed).one, count, watch)
            print(f"{count} mutated requests over {door}: {dict(found.most_common())}")
            watch.show("1,000 requests")
            failures += [f"{door} answered {status}" for status in sorted(found.keys() - FINE[door])]
            failures += [f"{each} has grown" for each in watch.grown(MOST_MEGABYTES, MOST_FILES)]
        good = ask(connect(served), served.images[1])
        failures += [] if np.allclose(good, served.logits[1], atol=1e-5) else ["a good request"]
        log = (Path(name) / "serve.log").read_text(errors="replace")
    print(f"then a good request was answered; {log.count(chr(10))} lines in the log, ", end="")
    print(f"{log.count('Traceback')} tracebacks")
    failures += ["tracebacks"] if "Traceback" in log else []
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
