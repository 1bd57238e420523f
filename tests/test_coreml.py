"""Core ML packages: what is written runs, off a Mac, to what the program computes."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

import coremltools as ct

from edgevit.errors import EdgevitError
from edgevit.export import coreml_artefact
from edgevit.export.coreml import to_coreml
from edgevit.export.coreml_artefact import CoremlArtefact
from edgevit.export.metadata import CARD_KEY
from edgevit.export.mil import read_package
from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.export.verify import compare
from edgevit.files import sha256_of
from edgevit.graph.capture import capture
from tests.coreml_helpers import IMAGENET, lively, prepared, rel, tiny_program

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}


@pytest.fixture(scope="module")
def program():
    return tiny_program()


def exported(program, folder, **options):
    path = folder / "model.mlpackage"
    return to_coreml(program, path, **options), CoremlArtefact.open(path)


@pytest.fixture(scope="module")
def packaged(program, tmp_path_factory):
    """The program exported with the given options, once for all tests that ask for the same."""
    made = {}

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = exported(program, tmp_path_factory.mktemp("packaged"), **options)
        return made[key]

    return make


def kinds_of(artefact):
    return [operation.kind for operation in artefact.program.operations]


@pytest.mark.parametrize("inputs", ["image", "tensor"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_package_computes_what_the_program_does(program, packaged, precision, inputs):
    info, artefact = packaged(precision=precision, inputs=inputs, minimum_ios="16")
    (parity,) = compare(
        artefact,
        program,
        prepared(program, 3),
        described="noise",
        tolerance=TOLERANCE[precision],
        name="model",
    ).outputs
    assert parity.passed
    assert info.precision == precision
    assert artefact.runtime == "coreml reference evaluator"


@pytest.mark.parametrize("ios", ["16", "17", "18"])
def test_every_ios_version_computes_the_same(program, packaged, ios):
    info, artefact = packaged(precision="fp32", inputs="image", minimum_ios=ios)
    images = prepared(program)
    assert rel(artefact.run(images)[0], program.run(images)[0]) <= 1e-5
    assert ("scaled_dot_product_attention" in kinds_of(artefact)) == (ios == "18")
    assert info.options == {"minimum_ios": ios, "inputs": "image", "batch": 1}


def test_what_a_package_holds_is_described(packaged):
    info, artefact = packaged(precision="fp32", inputs="image", minimum_ios="16")
    assert info.sha256 == sha256_of(artefact.path)
    assert info.bytes == sum(file.stat().st_size for file in artefact.path.rglob("*") if file.is_file())
    assert info.inputs[0].model_dump() == {"name": "image", "shape": (1, 3, 32, 32), "dtype": "uint8"}
    assert [output.model_dump() for output in info.outputs] == [
        {"name": "logits", "shape": (1, 5), "dtype": "float32"}
    ]
    assert (artefact.num_classes, artefact.batch, artefact.takes_image) == (5, 1, True)


def test_the_card_comes_back_from_the_package(program, packaged):
    _, artefact = packaged(precision="fp32", inputs="image", minimum_ios="16")
    assert artefact.card.steps[: len(program.card.steps)] == program.card.steps
    assert artefact.card.model_copy(update={"steps": program.card.steps}) == program.card
    description = read_package(artefact.path).spec.description
    assert description.metadata.shortDescription.startswith("tiny: ")
    assert description.metadata.author.startswith("edgevit")
    assert json.loads(description.metadata.userDefined[CARD_KEY])["name"] == "tiny"


def test_an_image_package_with_labels_is_a_classifier(program, packaged):
    _, artefact = packaged(precision="fp32", inputs="image", minimum_ios="16")
    description = read_package(artefact.path).spec.description
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == (
        "classLabel",
        "classLabel_probs",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.float32)
    results = artefact.program.evaluate({"image": pixels})
    mean, std = (
        np.reshape(part, (3, 1, 1))
        for part in (program.card.preprocessing.mean, program.card.preprocessing.std)
    )
    logits = program.run(((pixels / 255 - mean) / std).astype(np.float32))[0]
    chances = torch.softmax(torch.from_numpy(logits), 1)[0].numpy()
    assert results["classLabel"] == program.card.labels[int(logits.argmax())]
    assert list(results["classLabel_probs"]) == list(program.card.labels)
    np.testing.assert_allclose(list(results["classLabel_probs"].values()), chances, rtol=1e-4)


def test_labels_that_occur_twice_keep_their_own_probability(tmp_path):
    program = tiny_program(labels=("crane", "bee", "crane", "dog", "elk"))
    _, artefact = exported(program, tmp_path, precision="fp32")
    results = artefact.program.evaluate({"image": np.zeros((1, 3, 32, 32), np.float32)})
    assert list(results["classLabel_probs"]) == ["crane (0)", "bee", "crane (2)", "dog", "elk"]
    assert artefact.card.labels == program.card.labels


def test_a_grey_image_without_labels_gives_logits_only(tmp_path):
    program = tiny_program(labels=None, channels=1, mean=(0.5,), std=(0.2,))
    _, artefact = exported(program, tmp_path, precision="fp32")
    description = read_package(artefact.path).spec.description
    image_type = description.input[0].type.imageType
    assert image_type.ColorSpace.Name(image_type.colorSpace) == "GRAYSCALE"
    assert [output.name for output in description.output] == ["logits"]
    # One std for all channels is the image input's own scale: no division follows.
    assert kinds_of(artefact)[:3] == ["mul", "add", "conv"]
    images = prepared(program)
    assert rel(artefact.run(images)[0], program.run(images)[0]) <= 1e-5


def test_every_output_of_the_program_is_returned_in_its_order(tmp_path):
    class TwoHeads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Linear(4, 5)

        def forward(self, image):
            features = torch.relu(self.stem(image))
            return self.head(features.mean((2, 3))), features

    torch.manual_seed(0)
    program = capture(TwoHeads().eval(), name="two", input_size=(32, 32), labels=tuple("abcde"), **IMAGENET)
    _, artefact = exported(program, tmp_path, precision="fp32")
    assert [output.name for output in artefact.outputs] == ["logits", "output_1"]
    verification = compare(
        artefact, program, prepared(program), described="noise", tolerance=1e-5, name="two"
    )
    assert verification.passed


def test_weights_are_stored_in_the_precision_asked_for(packaged):
    single, half = (
        packaged(precision=precision, inputs="image", minimum_ios="16")[0] for precision in ("fp32", "fp16")
    )
    assert half.bytes < single.bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "precision: 'int8'"),
        ({"minimum_ios": "15"}, "minimum_ios: '15'"),
        ({"inputs": "video"}, "inputs: 'video'"),
    ],
)
def test_an_unknown_option_is_refused(program, tmp_path, options, words):
    with pytest.raises(EdgevitError, match=words):
        to_coreml(program, tmp_path / "model.mlpackage", **options)


def test_another_suffix_is_refused(program, tmp_path):
    with pytest.raises(EdgevitError, match=r"saved as \.mlpackage"):
        to_coreml(program, tmp_path / "model.mlmodel")


def test_a_graph_that_coremltools_cannot_translate_is_one_sentence(tmp_path):
    class Spectral(torch.nn.Module):
        def forward(self, image):
            return torch.fft.fft2(image).real.mean((1, 3))

    program = capture(Spectral(), name="spectral", input_size=(8, 8), **IMAGENET)
    with pytest.raises(EdgevitError, match="spectral cannot be written as a Core ML package: ") as caught:
        to_coreml(program, tmp_path / "model.mlpackage")
    assert "\n" not in str(caught.value)


def test_on_a_mac_an_array_package_runs_in_core_ml(program, packaged, monkeypatch):
    """Core ML itself cannot run here: what is handed to it, and read from it, is checked on a stand-in."""

    class StandIn:
        def predict(self, feed):
            assert feed["image"].shape == (1, 3, 32, 32)
            return {"logits": np.full((1, 5), feed["image"].mean())}

    path = packaged(precision="fp32", inputs="tensor", minimum_ios="16")[1].path
    monkeypatch.setattr(coreml_artefact.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coreml_artefact.platform, "mac_ver", lambda: ("15.1", ("", "", ""), ""))
    monkeypatch.setattr(coreml_artefact, "_loaded", lambda _: StandIn())
    artefact = CoremlArtefact.open(path)
    images = prepared(program, 2)
    assert artefact.runtime == "Core ML 15.1"
    np.testing.assert_allclose(artefact.run(images)[0][:, 0], images.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


COMPRESSIONS = {
    "constexpr_affine_dequantize": (
        "16",
        lambda cto: (cto.linear_quantize_weights, cto.OpLinearQuantizerConfig()),
    ),
    "constexpr_lut_to_dense": ("16", lambda cto: (cto.palettize_weights, cto.OpPalettizerConfig(nbits=6))),
    "constexpr_sparse_to_dense": (
        "18",
        lambda cto: (cto.prune_weights, cto.OpMagnitudePrunerConfig(target_sparsity=0.1)),
    ),
    "constexpr_blockwise_shift_scale": (
        "18",
        lambda cto: (
            cto.linear_quantize_weights,
            cto.OpLinearQuantizerConfig(granularity="per_block", block_size=8, dtype="int8"),
        ),
    ),
}


@pytest.mark.parametrize(
    "kind",
    [
        "constexpr_affine_dequantize",
        "constexpr_blockwise_shift_scale",
        pytest.param("constexpr_lut_to_dense", marks=pytest.mark.slow),
        pytest.param("constexpr_sparse_to_dense", marks=pytest.mark.slow),
    ],
)
def test_weights_that_coremltools_compressed_are_read(program, packaged, tmp_path, kind):
    ios, choose = COMPRESSIONS[kind]
    source = packaged(precision="fp32", inputs="image", minimum_ios=ios)[1].path
    compress, config = choose(ct.optimize.coreml)
    config.weight_threshold = 64
    with quiet_coremltools():
        model = ct.models.MLModel(str(source), skip_model_load=True)
        compress(model, ct.optimize.coreml.OptimizationConfig(config)).save(str(tmp_path / "small.mlpackage"))
    artefact = CoremlArtefact.open(tmp_path / "small.mlpackage")
    images = prepared(program)
    assert kind in kinds_of(artefact)
    # Compression moves the logits a little; a wrong scale, table or mask would move them out of sight.
    assert 1e-5 < rel(artefact.run(images)[0], program.run(images)[0]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "mobilevit_xxs", "efficientformerv2_s0", "levit_128s"]
)
def test_timm_models_compute_what_they_did(name, precision, tmp_path):
    from edgevit.graph.torchvision_shim import make_torchvision_importable

    make_torchvision_importable()
    timm = pytest.importorskip("timm")
    model = lively(timm.create_model(name, num_classes=10))
    size = model.default_cfg["input_size"][1:]
    program = capture(model, name=name, input_size=size, labels=tuple("abcdefghij"), **IMAGENET)
    _, artefact = exported(program, tmp_path, precision=precision)
    (parity,) = compare(
        artefact, program, prepared(program), described="noise", tolerance=TOLERANCE[precision], name=name
    ).outputs
    assert parity.passed, parity.explain()
