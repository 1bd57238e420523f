"""Float16 ONNX files: what becomes float16, what stays float32, and how far the outputs move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.export import export
from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.graph.capture import capture
from tests.rewrites.helpers import Function, program_of
from tests.zoo import example

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def stored(path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_weights_are_float16_and_images_and_logits_float32(tiny_program, tmp_path, batch):
    (artefact,) = export(tiny_program, output=tmp_path, precision="fp16", batch=batch).artefacts
    assert artefact.verification.passed
    assert artefact.verification.outputs[0].rel > 1e-6
    graph = onnx.load(artefact.path).graph
    assert {tensor.data_type for tensor in graph.initializer} <= {HALF, onnx.TensorProto.INT64}
    ends = [*graph.input, *graph.output]
    assert [value.type.tensor_type.elem_type for value in ends] == [FLOAT, FLOAT]
    assert [value.name for value in ends] == ["image", "logits"]
    assert sum(node.op_type == "Cast" for node in graph.node) == 2


def test_a_constant_beyond_float16_stays_float32_and_so_does_what_reads_it(tmp_path):
    class Large(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(12, 3)
            self.register_buffer("large", torch.full((3,), 1e6))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (self.head(image.flatten(1)) * self.large).clamp(-65000, 65000) / 1000

    program = program_of(Large(), (3, 2, 2))
    to_onnx(program, tmp_path / "a.onnx", precision="fp16")
    kinds = stored(tmp_path / "a.onnx")
    assert [name for name, kind in kinds.items() if kind == FLOAT] == ["large"]
    images = example((3, 2, 2), 4).numpy() * 0.01
    actual, expected = OnnxArtefact.open(tmp_path / "a.onnx").run(images)[0], program.run(images)[0]
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max() <= 5e-3 * np.abs(expected).max()


def test_infinity_in_a_mask_is_no_overflow(tmp_path):
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = image.flatten(2)
            return ((tokens.transpose(1, 2) @ tokens + self.mask).softmax(-1)).mean(2)

    program = program_of(Masked(), (3, 2, 2))
    to_onnx(program, tmp_path / "a.onnx", precision="fp16")
    assert FLOAT not in stored(tmp_path / "a.onnx").values()
    images = example((3, 2, 2), 4).numpy()
    np.testing.assert_allclose(
        OnnxArtefact.open(tmp_path / "a.onnx").run(images)[0], program.run(images)[0], atol=5e-3
    )


def test_what_onnx_takes_as_float32_alone_stays_so(tmp_path):
    def resized(image: torch.Tensor) -> torch.Tensor:
        larger = torch.nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear")
        return larger.mean((2, 3))

    program = capture(Function(resized), input_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, name="resized")
    to_onnx(program, tmp_path / "a.onnx", precision="fp16")
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    images = example((3, 8, 8), 2).numpy()
    np.testing.assert_allclose(
        OnnxArtefact.open(tmp_path / "a.onnx").run(images)[0], program.run(images)[0], atol=5e-3
    )
