"""Quantized Programs as Core ML packages: the Program's integers and scales, found again to the bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.errors import EdgevitError
from edgevit.export.metadata import ArtefactInfo
from edgevit.export.verify import compare, noise
from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.quant.levels import Level
from tests.quantized_programs import Convs, Mlp, constants, quantized, with_class_token
from tests.zoo import example

pytest.importorskip("coremltools")

from edgevit.export import coreml
from edgevit.export.coreml import to_coreml
from edgevit.export.coreml_artefact import CoremlArtefact
from edgevit.export.mil import read_package

IMAGES = example((3, 8, 8), 4, seed=1).numpy()
WEIGHTS = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}


def written(program: Program, folder: Path, **options: str) -> tuple[CoremlArtefact, ArtefactInfo]:
    path = folder / "model.mlpackage"
    info = to_coreml(program, path, **options)
    assert info.precision == "int8"
    return CoremlArtefact.open(path), info


def kinds(artefact: CoremlArtefact) -> Counter[str]:
    return Counter(operation.kind for operation in artefact.program.operations)


def value(artefact: CoremlArtefact, operation, name: str) -> np.ndarray:
    return artefact.program.constants[operation.inputs[name]].numpy()


def difference(artefact: CoremlArtefact, program: Program) -> float:
    expected = program.run(IMAGES)[0]
    return float(np.abs(artefact.run(IMAGES)[0] - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("minimum_ios", ["17", "18"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", [Mlp, Convs])
def test_every_weight_and_scale_is_the_program_s_to_the_bit(tmp_path, model, precision, minimum_ios):
    program = quantized(model(), (3, 8, 8), everything=True)
    artefact, info = written(program, tmp_path, precision=precision, minimum_ios=minimum_ios)
    assert info.options["floats"] == precision
    stored = [item for item in artefact.program.operations if item.kind in WEIGHTS]
    found = Counter(
        (
            value(artefact, item, WEIGHTS[item.kind]).astype(np.int8).tobytes(),
            value(artefact, item, "scale").tobytes(),
        )
        for item in stored
    )
    state = constants(program)
    names = [name.removesuffix("_int8") for name in state if name.endswith("weight_int8")]
    assert found == Counter(
        (state[f"{name}_int8"].tobytes(), state[f"{name}_scale"].tobytes()) for name in names
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_grid_stands_in_the_package_as_often_as_in_the_program(tmp_path, precision):
    program = quantized(Convs(), (3, 8, 8), everything=True)
    artefact, _ = written(program, tmp_path, precision=precision)
    found = Counter(
        (float(value(artefact, item, "scale")), int(value(artefact, item, "zero_point")))
        for item in artefact.program.operations
        if item.kind == "quantize"
    )
    target = torch.ops.quantized_decomposed.quantize_per_tensor.default
    assert found == Counter(node.args[1:3] for node in program.graph.nodes if node.target is target)


@pytest.mark.parametrize("everything", [False, True])
def test_in_float32_the_reference_evaluator_computes_what_the_program_does(tmp_path, everything):
    program = quantized(Convs(), (3, 8, 8), everything=everything)
    artefact, _ = written(program, tmp_path, precision="fp32")
    assert difference(artefact, program) < 1e-6


def test_in_float16_it_does_up_to_rounding(tmp_path):
    program = quantized(Convs(), (3, 8, 8), everything=True)
    artefact, info = written(program, tmp_path)
    assert info.options["floats"] == "fp16"
    assert difference(artefact, program) < 0.02


@pytest.mark.parametrize(("minimum_ios", "stored"), [("17", "int8"), ("18", "int4")])
def test_four_bits_take_half_a_byte_from_ios_18(tmp_path, minimum_ios, stored):
    program = quantized(Mlp(), (3, 8, 8), weight_bits=4)
    artefact, info = written(program, tmp_path, precision="fp32", minimum_ios=minimum_ios)
    assert info.options["weight_bits"] == {"4": 2}
    assert info.options["weights_stored_as"] == {stored: 2}
    assert difference(artefact, program) < 1e-6


def test_a_grid_of_fewer_bits_saturates_at_its_own_ends(tmp_path):
    program = quantized(Convs(), (3, 8, 8), bits=4)
    artefact, _ = written(program, tmp_path, precision="fp32")
    assert kinds(artefact)["clip"] == 3
    given = 5 * IMAGES
    expected = program.run(given)[0]
    assert np.abs(artefact.run(given)[0] - expected).max() <= 1e-6 * np.abs(expected).max()


def test_weights_alone_can_be_integers_from_ios_16(tmp_path):
    program = quantized(Mlp(), (3, 8, 8), level=Level.WEIGHTS)
    artefact, info = written(program, tmp_path, precision="fp32")
    assert info.options["minimum_ios"] == "16"
    assert kinds(artefact)["quantize"] == 0
    assert difference(artefact, program) < 1e-6


def test_a_constant_that_is_quantized_is_stored_as_integers(tmp_path):
    class Embedded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = torch.nn.Parameter(torch.randn(1, 1, 64))
            self.position, self.layer = torch.nn.Parameter(torch.randn(1, 4, 64)), torch.nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.start.expand(x.shape[0], -1, -1), x.flatten(2)], 1)
            return self.layer(x + self.position)

    program = quantized(Embedded(), (3, 8, 8), everything=True)
    artefact, _ = written(program, tmp_path, precision="fp32")
    assert kinds(artefact)["constexpr_affine_dequantize"] == 3
    assert difference(artefact, program) < 0.02


def test_a_constant_that_the_batch_shares_is_stored_as_integers(tmp_path):
    program = with_class_token()
    artefact, _ = written(program, tmp_path, precision="fp32")
    assert kinds(artefact)["constexpr_affine_dequantize"] == 3
    assert difference(artefact, program) < 0.02


def test_two_layers_with_equal_weights_are_stored_once(tmp_path):
    twins = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(2)))
    for layer in twins:
        torch.nn.init.zeros_(layer.weight)
    artefact, _ = written(quantized(twins, (3, 8, 8)), tmp_path)
    assert kinds(artefact)["conv"] == 2
    assert kinds(artefact)["constexpr_affine_dequantize"] == 1


def test_what_core_ml_has_not_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "model.mlpackage"
    with pytest.raises(
        EdgevitError, match="--minimum-ios 16: model has 8-bit activations.*pass --minimum-ios 17"
    ):
        to_coreml(quantized(Mlp(), (3, 8, 8)), path, minimum_ios="16")
    with pytest.raises(
        EdgevitError, match="16-bit activations, which Core ML has not; quantize them to 8 bits"
    ):
        to_coreml(quantized(Mlp(), (3, 8, 8), bits=16), path)
    assert not path.exists()


def test_a_package_with_other_integers_than_the_program_s_is_an_error(tmp_path, monkeypatch):
    program = quantized(Mlp(), (3, 8, 8))
    other = quantized(Mlp(), (3, 8, 8), weight_bits=7)
    monkeypatch.setattr(coreml, "store_constants", lambda _: other.with_batch(1))
    with pytest.raises(EdgevitError, match="of the Program's 2 integer weights, .* the file lacks 2"):
        to_coreml(program, tmp_path / "model.mlpackage")


def test_the_seal_covers_integer_weights(tmp_path):
    artefact, _ = written(quantized(Mlp(), (3, 8, 8)), tmp_path)
    weights = next(read_package(artefact.path).weights.iterdir())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(EdgevitError, match="its sha256 differs"):
        CoremlArtefact.open(artefact.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "layers"), [("vit_tiny_patch16_224", 224, 50), ("mobilevit_xxs", 64, 72)]
)
def test_whole_models_keep_their_integers_and_are_verified(tmp_path, name, size, layers):
    pytest.importorskip("timm")
    program = capture(f"timm:{name}", weights="random", num_classes=10, input_size=(size, size))
    program = quantized(program, everything=True)
    artefact, info = written(program, tmp_path, minimum_ios="18", inputs="tensor")
    assert info.options["weight_bits"] == {"8": layers}
    images = noise(program.card.preprocessing, 1)
    (output,) = compare(
        artefact, program, images, described="noise", tolerance=5e-3, name="model", rounding=True
    ).outputs
    assert output.passed, output.explain()
