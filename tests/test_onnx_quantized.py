"""Quantized Programs as ONNX files: every integer and scale as the Program's, and integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.export.quantized import parameters_of
from edgevit.export.verify import verify
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.quant.levels import Level
from tests.quantized_programs import Convs, Mlp, constants, mixed, quantized, with_class_token
from tests.zoo import example

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgevit.export.onnx.quantized import parameters_in  # noqa: E402

LINEAR = {"MatMulIntegerToFloat": 1, "QGemm": 1, "weights_dequantized_on_every_run": 0}


def initializers(path: Path) -> list[np.ndarray]:
    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


def nodes(path: Path, kind: str) -> list:
    return [node for node in onnx.load(path).graph.node if node.op_type == kind]


def written(program: Program, folder: Path, **options: object) -> tuple[Path, dict]:
    path = folder / "model.onnx"
    info = to_onnx(program, path, **options)
    assert info.precision == "int8"
    return path, info.options


def images(program: Program, count: int = 4) -> np.ndarray:
    return example(tuple(int(size) for size in program.input_shape[1:]), count, seed=1).numpy()


def difference(path: Path, program: Program) -> float:
    given = images(program)
    expected = program.run(given)[0]
    return float(np.abs(OnnxArtefact.open(path).run(given)[0] - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(("model", "shape"), [(Mlp, (3, 8, 8)), (Convs, (3, 8, 8))])
def test_every_stored_integer_and_scale_is_the_program_s_to_the_bit(tmp_path, model, shape, everything):
    program = quantized(model(), shape, everything=everything)
    path, _ = written(program, tmp_path)
    found = initializers(path)
    for name, expected in constants(program).items():
        # A linear layer's weight is stored the other way round.
        turned = expected.T if expected.ndim == 2 else expected
        assert any(
            value.dtype == expected.dtype
            and any(
                value.shape == way.shape and value.tobytes() == way.tobytes() for way in (expected, turned)
            )
            for value in (item.copy(order="C") for item in found)
        ), name


@pytest.mark.parametrize("everything", [False, True])
def test_every_grid_stands_in_the_file_as_often_as_in_the_program(tmp_path, everything):
    program = quantized(Convs(), (3, 8, 8), everything=everything)
    path, _ = written(program, tmp_path)
    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = Counter(
        (float(values[node.input[1]]), int(values[node.input[2]]) - 128)
        for node in nodes(path, "QuantizeLinear")
    )
    target = torch.ops.quantized_decomposed.quantize_per_tensor.default
    expected = Counter(node.args[1:3] for node in program.graph.nodes if node.target is target)
    assert found == expected


def test_weights_are_stored_as_integers_only(tmp_path):
    path, _ = written(quantized(Mlp(), (3, 8, 8)), tmp_path)
    matrices = [value for value in initializers(path) if value.ndim > 1]
    assert {value.dtype for value in matrices} == {np.dtype(np.int8)}


def test_linear_layers_run_on_integers_and_no_weight_is_dequantized_when_it_runs(tmp_path):
    path, options = written(quantized(Mlp(), (3, 8, 8)), tmp_path)
    assert options["onnxruntime_kernels"] == LINEAR
    assert not nodes(path, "Transpose")


def test_convolutions_between_quantizers_run_on_integers(tmp_path):
    program = quantized(Convs(), (3, 8, 8), level=Level.INTEGER, everything=True)
    _, options = written(program, tmp_path)
    assert options["onnxruntime_kernels"]["QLinearConv"] == 2


@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_what_is_computed_is_the_program_s_up_to_rounding(tmp_path, batch):
    program = quantized(Convs(), (3, 8, 8), everything=True)
    path, _ = written(program, tmp_path, batch=batch)
    assert difference(path, program) < 0.02


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_a_grid_of_fewer_bits_saturates_at_its_own_ends(tmp_path, bits):
    program = quantized(Convs(), (3, 8, 8), bits=bits, weight_bits=bits)
    path, options = written(program, tmp_path)
    assert options["activation_bits"] == {str(bits): 3}
    assert options["weight_bits"] == {str(bits): 3}
    assert len(nodes(path, "Clip")) == (0 if bits == 8 else 3)
    given = 5 * images(program)
    expected = program.run(given)[0]
    assert np.abs(OnnxArtefact.open(path).run(given)[0] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 8])
def test_numbers_around_every_integer_of_a_grid_become_the_program_s_integers(tmp_path, bits):
    program = quantized(
        lambda x: x.relu() - x.flatten(1).mean(1).reshape(-1, 1, 1, 1), (1, 16, 16), bits=bits
    )
    # Quantize the input alone: that is what a layer-less program at level INTEGER does not, so wrap it.
    program = quantized(torch.nn.ReLU6(), (1, 16, 16), everything=True, bits=bits)
    path, _ = written(program, tmp_path)
    values = np.linspace(-8, 8, 4 * 256, dtype=np.float32).reshape(4, 1, 16, 16)
    assert np.array_equal(OnnxArtefact.open(path).run(values)[0], program.run(values)[0])


def test_weights_alone_can_be_integers(tmp_path):
    program = quantized(Mlp(), (3, 8, 8), level=Level.WEIGHTS, weight_bits=4)
    path, options = written(program, tmp_path)
    assert options["weight_bits"] == {"4": 2}
    assert options["activation_bits"] == {}
    assert options["onnxruntime_kernels"] == {"weights_dequantized_on_every_run": 2}
    assert difference(path, program) < 1e-5


def test_a_constant_that_is_quantized_is_stored_as_integers(tmp_path):
    class Embedded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.layer = torch.nn.Parameter(torch.randn(1, 5, 12)), torch.nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(2) + self.position)

    program = quantized(Embedded(), (5, 3, 4), everything=True)
    path, _ = written(program, tmp_path)
    assert {str(value.dtype) for value in initializers(path) if value.ndim > 1} == {"int8", "uint8"}
    assert difference(path, program) < 0.02


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
def test_a_constant_that_the_batch_shares_is_stored_as_integers_once(tmp_path, batch):
    program = with_class_token()
    path, _ = written(program, tmp_path, batch=batch)
    assert [value.dtype for value in initializers(path) if value.shape == (1, 1, 64)] == ["uint8"]
    assert parameters_in(path.read_bytes()) == parameters_of(program)
    assert difference(path, program) < 0.02


def test_sixteen_bits_need_a_newer_opset(tmp_path):
    program = quantized(Mlp(), (3, 8, 8), bits=16)
    with pytest.raises(EdgevitError, match="--opset 20: .* 16-bit activations.*; pass --opset 23"):
        to_onnx(program, tmp_path / "model.onnx")
    path, options = written(program, tmp_path, opset=23)
    assert options["activation_bits"] == {"16": 2}
    assert options["onnxruntime_kernels"] == {"weights_dequantized_on_every_run": 2}
    assert difference(path, program) < 1e-5


@pytest.mark.parametrize("layer", ["conv2d", "conv2d_1", "linear"])
@pytest.mark.parametrize("placement", ["inputs", "layers", "full"])
def test_layers_of_sixteen_bits_among_others_of_eight_compute_what_the_program_does(
    tmp_path, placement, layer
):
    program = mixed(Convs(), (3, 8, 8), placement=placement, layers=[layer])
    path, options = written(program, tmp_path, opset=23)
    assert options["activation_bits"].keys() == {"8", "16"}
    assert difference(path, program) < 1e-5


def test_float16_is_refused_for_a_quantized_program(tmp_path):
    with pytest.raises(EdgevitError, match="--precision fp16: model is quantized, .*leave out --precision"):
        to_onnx(quantized(Mlp(), (3, 8, 8)), tmp_path / "model.onnx", precision="fp16")


def test_opset_23_has_the_same_kernels(tmp_path):
    _, options = written(quantized(Mlp(), (3, 8, 8)), tmp_path, opset=23)
    assert options["onnxruntime_kernels"] == LINEAR


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_a_file_whose_integers_or_scales_differ_in_a_bit_is_an_error(tmp_path, monkeypatch, kind):
    from edgevit.export.onnx import convert

    def spoilt(model, name):
        for value in model.graph.initializers.values():
            stored = value.const_value.numpy().copy()
            if stored.dtype == kind and stored.ndim == (2 if kind == "int8" else 1) and stored.size > 1:
                stored.view(np.uint8).flat[0] ^= 1
                value.const_value = convert_tensor(stored, value.name)
        return serialised(model, name)

    import onnx_ir as ir

    convert_tensor = lambda stored, name: ir.tensor(stored, name=name)  # noqa: E731
    serialised = convert._serialised
    monkeypatch.setattr(convert, "_serialised", spoilt)
    with pytest.raises(EdgevitError, match="integer weights, biases and constants the file lacks"):
        to_onnx(quantized(Mlp(), (3, 8, 8)), tmp_path / "model.onnx")


def test_what_is_read_back_counts_every_occurrence(tmp_path):
    program = quantized(Convs(), (3, 8, 8), everything=True)
    path, _ = written(program, tmp_path)
    found = parameters_in(path.read_bytes())
    assert found == parameters_of(program)
    assert found.quantized.total() == found.dequantized.total() == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "layers"), [("vit_tiny_patch16_224", 224, 50), ("mobilevit_xxs", 64, 72)]
)
def test_whole_models_keep_their_integers_and_run_on_integer_kernels(tmp_path, name, size, layers):
    pytest.importorskip("timm")
    program = capture(f"timm:{name}", weights="random", num_classes=10, input_size=(size, size))
    program = quantized(program, everything=True)
    path, options = written(program, tmp_path)
    assert options["weight_bits"] == {"8": layers}
    counts = options["onnxruntime_kernels"]
    assert counts["QGemm"] + counts["QLinearConv"] == layers
    assert counts["weights_dequantized_on_every_run"] == 0
    assert verify(path, against=program, samples=2).passed
