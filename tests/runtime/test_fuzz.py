"""Mutated requests to both doors; `benchmarks/fuzz.py` sends a hundred thousand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

for library in ("zenoh", "onnxruntime", "aiohttp", "grpc"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def fuzz():
    """The benchmark, whose folder is no package."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("fuzz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def service(fuzz, folder):
    with fuzz.serving(folder, "--max-request", "100k") as found:
        yield found


@pytest.mark.parametrize("door", ["HTTP", "gRPC"])
def test_whatever_is_sent_is_answered_or_refused_and_then_a_good_request_is(fuzz, service, folder, door):
    sender = {"HTTP": fuzz.Http, "gRPC": fuzz.Grpc}[door](service, 1)
    found = {sender.one() for _ in range(300)}
    assert found <= fuzz.FINE[door]
    assert len(found) >= 3
    good = fuzz.ask(fuzz.connect(service), service.images[1])
    np.testing.assert_allclose(good, service.logits[1], atol=1e-5)
    assert "Traceback" not in (folder / "serve.log").read_text(errors="replace")
