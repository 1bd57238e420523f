"""A TFLite file that several modules profile."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_tflite(tiny_program, tmp_path_factory):
    pytest.importorskip("litert_torch")
    from edgevit.export.tflite import to_tflite

    path = tmp_path_factory.mktemp("tiny-tflite") / "model.tflite"
    to_tflite(tiny_program, path)
    return path
