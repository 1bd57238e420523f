"""NNCF as an engine: its numbers arrive to the bit, and under this package's contract."""

from __future__ import annotations

import tarfile
from operator import attrgetter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevit import extras
from edgevit.errors import EdgevitError, MissingDependencyError
from edgevit.graph.capture import capture
from edgevit.graph.program import Array, Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.images import ImageReader, open_folder
from edgevit.quant import nncf_engine
from edgevit.quant.grids import ActivationGrid, snapped, snapped_tensor
from edgevit.quant.insertion import decomposed
from edgevit.quant.levels import Group, Level
from edgevit.quant.nncf_engine import quantize_with_nncf
from edgevit.quant.quantizing import QuantizeResult, quantize
from tests.quant.layers import ATTENTIONS, WIDTH, Classify, Layer, ToTokens, convolution, depthwise
from tests.rewrites.helpers import assert_same_function, operators, program_of

IMAGE = (3, 8, 8)
COUNT = 12


class Hybrid(nn.Module):
    """Convolutions, an attention, a classifier."""

    def __init__(self, *arguments: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            convolution(3, WIDTH, stride=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), depthwise()
        )
        self.tokens = ToTokens()
        self.layers = Layer(*arguments)
        self.classify = Classify()

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.layers(self.tokens(self.stem(image))))


@pytest.fixture(scope="module")
def nncf() -> None:
    if extras.missing("nncf"):
        pytest.skip("nncf is not installed")


@pytest.fixture(scope="module")
def program() -> Program:
    return program_of(Hybrid(), IMAGE)


@pytest.fixture(scope="module")
def answer(nncf, program) -> torch.fx.GraphModule:
    """What NNCF itself returns, before anything of ours reads it."""
    prepared = prepare_for_export(program)
    return nncf_engine._run(prepared, torch.from_numpy(images()), (), "auto", "auto")


@pytest.fixture(scope="module")
def result(nncf, program) -> QuantizeResult:
    return quantize(program, images(), engine="nncf")


def images(count: int = COUNT) -> Array:
    return np.random.default_rng(0).normal(size=(count, *IMAGE)).astype(np.float32)


def quantizers(graph: torch.fx.Graph, target: object) -> list[torch.fx.Node]:
    return [node for node in graph.nodes if node.target is target]


def of_attention(quantizer: torch.fx.Node) -> bool:
    """Whether it stands before the fused attention, which the contract leaves float."""
    return "getitem" in str(quantizer.args[0])


def stored(program: Program, ending: str) -> list[Tensor]:
    state = program.exported.state_dict
    found = [
        state[path]
        for path in program.exported.graph_signature.inputs_to_buffers.values()
        if path.endswith(ending)
    ]
    assert found
    return found


def attribute(model: torch.fx.GraphModule, node: object) -> Tensor:
    return attrgetter(node.target)(model)


class TestTheNumbers:
    def test_activation_scales_are_nncfs_snapped(self, answer, result):
        theirs = quantizers(answer.graph, decomposed.quantize_per_tensor.default)
        ours = quantizers(result.program.graph, decomposed.quantize_per_tensor.default)
        expected = [snapped(node.args[1]) for node in theirs if not of_attention(node)]
        assert [node.args[1] for node in ours] == expected

    def test_activation_grids_stand_for_the_same_numbers(self, answer, result):
        theirs = quantizers(answer.graph, decomposed.quantize_per_tensor.default)
        ours = quantizers(result.program.graph, decomposed.quantize_per_tensor.default)
        shifts = [node.args[2] - node.args[3] for node in theirs if not of_attention(node)]
        assert [node.args[2] + 128 for node in ours] == shifts
        assert {node.args[3:] for node in ours} == {(-128, 127, torch.int8)}

    def test_weights_are_nncfs_integers(self, answer, result):
        theirs = quantizers(answer.graph, decomposed.quantize_per_channel.default)
        integers, scales = stored(result.program, "_int8"), stored(result.program, "weight_scale")
        assert len(theirs) == len(integers) == 8
        for node, values, scale in zip(theirs, integers, scales, strict=True):
            weight, scale_of, zero_point, *rest = node.args
            tensors = [attribute(answer, tensor) for tensor in (weight, scale_of, zero_point)]
            assert torch.equal(node.target(*tensors, *rest), values)
            assert torch.equal(snapped_tensor(tensors[1]), scale)

    def test_biases_are_nncfs_corrected_ones(self, answer, result):
        layers = [
            node for node in answer.graph.nodes if node.name.startswith(("conv2d", "linear")) and node.args
        ]
        integers, scales = stored(result.program, "_int32"), stored(result.program, "bias_scale")
        for node, values, scale in zip(layers, integers, scales, strict=True):
            assert ((values * scale - attribute(answer, node.args[2])).abs() <= 0.51 * scale).all()

    def test_it_computes_nearly_what_the_float_program_does(self, program, result):
        expected, found = program.run(images())[0], result.program.run(images())[0]
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


class TestPlacement:
    def test_a_layer_gives_integers_where_nncf_quantizes_its_output(self, result):
        levels = result.levels
        assert levels["conv2d_1"] == levels["relu"] == Level.INTEGER
        assert levels["conv2d"] == levels["linear"] == Level.INPUTS

    def test_a_fused_attention_stays_float_and_is_named(self, result):
        (remark,) = result.remarks
        assert "1 scaled_dot_product_attention" in remark
        assert not any("unsqueeze" in name for name in result.levels)

    @pytest.mark.parametrize("attend", ATTENTIONS, ids=lambda attend: attend.__name__)
    def test_attention_in_every_spelling(self, nncf, attend):
        program = program_of(Hybrid(attend), IMAGE)
        found = quantize(program, images(), engine="nncf")
        expected, actual = program.run(images())[0], found.program.run(images())[0]
        assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()

    def test_excluded_layers_stay_float(self, nncf, program):
        found = quantize(program, images(), engine="nncf", exclude=["stem.1", "linear_2"])
        assert not {"conv2d_1", "linear_2"} & found.levels.keys()
        assert not found.kept_float

    def test_a_floor_is_kept(self, nncf, program):
        found = quantize(program, images(64), engine="nncf", max_drop=0.0)
        assert found.drop <= 0
        assert set(found.kept_float.values()) <= {"--max-drop 0"}

    def test_values_that_share_a_grid_get_the_union_of_their_ranges(self):
        first, second = ActivationGrid(0.5, -128), ActivationGrid(0.25, 127)
        grid = nncf_engine._grid(Group(("a", "b")), {"a": [first], "b": [second]}, {})
        assert grid.low <= second.low < first.high <= grid.high + grid.scale / 2


class TestSmoothing:
    def test_a_layer_norm_takes_up_the_factor(self, result):
        # Of five linear layers two read a layer norm.
        assert operators(result.program)["mul"] == 3

    def test_it_changes_nothing_in_float(self, nncf, program):
        prepared = prepare_for_export(program)
        found = quantize_with_nncf(prepared, torch.from_numpy(images()))
        assert_same_function(found.program, prepared)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"method": "minmax"}, "--method"),
            ({"placement": "full"}, "--placement"),
            ({"iterations": 3}, "--iterations"),
            ({"levels": {}}, "--levels"),
            ({"checkpoint": "run.ckpt"}, "--checkpoint"),
            ({"torch_device": "cuda"}, "--torch-device"),
            ({"precision": "w4a8"}, "--quantize w4a8: --engine nncf quantizes to w8a8"),
            ({"precision": "w8a16"}, "--quantize w8a16: --engine nncf quantizes to w8a8"),
            ({"precision": "w8"}, "--quantize w8: --engine nncf quantizes to w8a8"),
        ],
    )
    def test_what_nncf_would_ignore_is_refused(self, program, options, sentence):
        with pytest.raises(EdgevitError, match=sentence):
            quantize(program, images(), engine="nncf", **options)

    def test_a_misspelt_engine(self, program):
        with pytest.raises(EdgevitError, match='did you mean "nncf"'):
            quantize(program, images(), engine="nncff")

    def test_schemes_and_granularity_are_nncfs_to_follow(self, nncf, program):
        found = quantize(program, images(), engine="nncf", scheme="sym", granularity="tensor")
        nodes = quantizers(found.program.graph, decomposed.quantize_per_tensor.default)
        # Symmetric is one-sided for what is never negative.
        assert {node.args[2] for node in nodes} == {0, -128}
        assert all(len(set(scale.tolist())) == 1 for scale in stored(found.program, "weight_scale"))

    def test_without_nncf_the_sentence_says_how_to_get_it(self, program, monkeypatch):
        monkeypatch.setitem(extras.EXTRAS, "nncf", ("nncf_that_is_not_there",))
        with pytest.raises(MissingDependencyError, match=r'pip install "edgevit\[nncf\]"'):
            quantize(program, images(), engine="nncf")

    def test_a_failure_of_nncf_is_one_sentence(self, nncf, program, monkeypatch):
        import nncf as library

        def fail(*arguments: object, **options: object) -> None:
            raise KeyError("linear")

        monkeypatch.setattr(library, "quantize", fail)
        with pytest.raises(EdgevitError, match="failed on model: KeyError: 'linear'"):
            quantize(program, images(), engine="nncf")

    def test_the_card_says_what_made_it_and_nothing_that_did_not(self, result):
        (step,) = result.program.card.steps
        assert step.options["engine"] == "nncf"
        assert step.options["nncf"] == extras.version_of("nncf")
        assert not {"method", "iterations", "placement"} & step.options.keys()

    def test_standard_output_is_left_to_results(self, nncf, program, capsys):
        quantize(program, images(), engine="nncf")
        assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_hybrid_keeps_its_predictions(nncf, shared, tmp_path):
    pytest.importorskip("timm")
    with tarfile.open(shared / "data" / "cifar10-test.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    program = capture(
        "timm:mobilevit_xxs",
        weights=shared / "weights" / "mobilevit_xxs_cifar10_64px.safetensors",
        num_classes=10,
        input_size=(64, 64),
        resize=(64, 64),
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    folder = open_folder(tmp_path / "cifar10-test", num_classes=10, class_names=program.card.labels)
    pictures = ImageReader(folder.sample(464, 0), program.card.preprocessing).read_all()
    pictures = np.random.default_rng(0).permutation(pictures)
    found = quantize(program, pictures[:64], engine="nncf")
    expected, actual = (one.run(pictures[64:])[0].argmax(1) for one in (program, found.program))
    assert (expected == actual).mean() >= 0.97
