"""The published ViT-Tiny on real images: every format answers as the Program does."""

from __future__ import annotations

import pytest

from edgevit.evaluation import Evaluation
from edgevit.export import evaluate, export
from edgevit.graph.capture import capture
from edgevit.graph.program import Program

# The converter's library and the precisions of each format.
FORMATS = {
    "onnx": ("onnxscript", ("fp32", "fp16")),
    "tflite": ("litert_torch", ("fp32", "fp16")),
    "coreml": ("coremltools", ("fp32", "fp16")),
}


@pytest.fixture(scope="module")
def program(shared) -> Program:
    pytest.importorskip("timm")
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    return capture("timm:vit_tiny_patch16_224", weights=weights)


@pytest.fixture(scope="module")
def reference(program, shared) -> Evaluation:
    return evaluate(program, data=shared / "data" / "imagenet-val")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "precision"),
    [(name, precision) for name, (_, precisions) in FORMATS.items() for precision in precisions],
)
def test_top_1_is_the_programs_to_within_one_image(program, reference, shared, tmp_path, format_, precision):
    pytest.importorskip(FORMATS[format_][0])
    result = export(program, to=[format_], precision=precision, output=tmp_path, verify_artefacts=False)
    found = evaluate(result.artefacts[0].path, data=shared / "data" / "imagenet-val")
    assert found.n == reference.n
    assert abs(found.top1 - reference.top1) <= 100 / found.n + 1e-9
