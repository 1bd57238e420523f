"""Load for half an hour: do memory and file descriptors of the service and its workers stay as they are?

    python benchmarks/soak.py --minutes 30 --rate 20

A tiny model as a pipeline of three worker processes behind `edgevit serve`, asked over HTTP at a steady rate,
every answer compared with the model's. Fails when one is wrong, or something grows.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import Watch, processor_seconds
from served import Served, serving

# Growth within the second half that is no leak: what allocators keep and give back.
MOST_MEGABYTES, MOST_FILES = 2.0, 4


def request(image: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """A body of the Open Inference Protocol with the image as raw bytes, and its headers."""
    head = {
        "inputs": [
            {
                "name": "image",
                "shape": [1, *image.shape],
                "datatype": "FP32",
                "parameters": {"binary_data_size": image.nbytes},
            }
        ]
    }
    text = json.dumps(head).encode()
    return text + image.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def connect(served: Served) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", served.http)


def ask(connection: http.client.HTTPConnection, image: np.ndarray) -> np.ndarray:
    body, headers = request(image)
    connection.request("POST", "/v2/models/tiny/infer", body, headers)
    answer = json.load(connection.getresponse())
    return np.array(answer["outputs"][0]["data"], np.float32)


def soak(served: Served, minutes: float, rate: float) -> tuple[Watch, int, int]:
    """Samples, requests, and how many were answered wrongly."""
    watch, connection = Watch(served.processes()), connect(served)
    started, sampled, count, wrong = time.monotonic(), 0.0, 0, 0
    while (elapsed := time.monotonic() - started) < 60 * minutes:
        place = count % len(served.images)
        logits = ask(connection, served.images[place])
        wrong += not np.allclose(logits, served.logits[place], atol=1e-5)
        count += 1
        if elapsed >= sampled:
            watch.sample(elapsed / 60)
            sampled += min(10.0, 6 * minutes)
        time.sleep(max(0.0, started + count / rate - time.monotonic()))
    watch.sample(minutes)
    return watch, count, wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        watch, count, wrong = soak(served, options.minutes, options.rate)
        busy = sum(map(processor_seconds, watch.processes.values())) / (60 * options.minutes)
    print(f"{count} requests in {options.minutes:g} minutes, {wrong} answered wrongly; {busy:.2f} cores busy")
    watch.show("minute")
    grown = watch.grown(MOST_MEGABYTES, MOST_FILES)
    if wrong or grown:
        sys.exit(f"{wrong} wrong answers; grown: {', '.join(grown) or 'nothing'}")


if __name__ == "__main__":
    main()
