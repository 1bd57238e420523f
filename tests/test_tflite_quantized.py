import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.export import export, verify
from edgevit.graph.rewrites import prepare_for_export
from edgevit.quant.levels import Level
from tests.quantized_programs import mixed, quantized
from tests.test_tflite import from_timm, images_for, older_runtime, run_older  # noqa: F401
from tests.tflite_models import Hybrid, program_of

pytest.importorskip("litert_torch")

from edgevit.export.quantized import DEQUANTIZE_STORED, QUANTIZE
from edgevit.export.tflite import TfliteArtefact, count_operators, read_metadata, to_tflite
from edgevit.export.tflite.carried import carry_integers
from edgevit.export.tflite.model import constant, operator_name, parse, serialise
from edgevit.graph.rewriting import Editor, calls


class Small(nn.Module):
    """Every kind of layer, a shortcut, a ReLU that is fused, a move and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.grouped, self.head = nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 5, bias=False)

    def forward(self, x):
        features = self.conv(x).relu()
        features = features + self.grouped(self.depthwise(features))
        return self.head(features.flatten(2).transpose(1, 2)).mean(1)


# How much is quantized, and the bits of weights and activations.
KINDS = {
    "int8": (Level.INTEGER, 8, 8),
    "w6a6": (Level.INTEGER, 6, 6),
    "w4a4": (Level.INTEGER, 4, 4),
    "w8a16": (Level.INTEGER, 8, 16),
    "inputs": (Level.INPUTS, 8, 8),
    "weights": (Level.WEIGHTS, 4, 8),
    "dynamic": (Level.DYNAMIC, 8, 8),
}
INTEGER = [kind for kind, (level, *_) in KINDS.items() if level == Level.INTEGER]


def small(kind="int8", model=Small, size=(8, 8)):
    level, weight_bits, bits = KINDS[kind]
    return quantized(
        program_of(model(), size=size),
        level=level,
        everything=level == Level.INTEGER,
        weight_bits=weight_bits,
        bits=bits,
    )


def assert_on_the_same_step(program, found, expected):
    """But for ties: where the mean lies halfway between two steps, runtimes decide by their own last bit.

    A mean over 16 positions of integers is halfway for one sum in 16.
    """
    step = calls(program.graph, {QUANTIZE})[-1].args[1]
    difference = np.abs(found - expected) / step
    assert difference.max() < 1.5
    assert np.mean(difference > 0.5) <= 1 / 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The small network, quantized in every way, with its file and what `to_tflite` said of it."""
    folder = tmp_path_factory.mktemp("quantized")
    made = {}
    for kind in KINDS:
        program, path = small(kind), folder / f"{kind}.tflite"
        made[kind] = program, path, to_tflite(program, path)
    return made


@pytest.fixture(scope="module")
def integer_ends(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("ends") / "integer.tflite"
    return path, to_tflite(files["int8"][0], path, integer_io=True)


def constants_in(path):
    """Every integer constant with scales in a file, as its interpreter reads it: values, scales, axis."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    model = parse(path.read_bytes())
    found = []
    # The interpreter adds tensors of its own at the end.
    for details, tensor in zip(interpreter.get_tensor_details(), model.subgraphs[0].tensors, strict=False):
        stored = details["quantization_parameters"]
        is_constant = constant(model, tensor) is not None and stored["scales"].size > 0
        # Those of activations, such as a class token, can have a zero point.
        if not is_constant or stored["zero_points"].any():
            continue
        found.append(
            (interpreter.get_tensor(details["index"]), stored["scales"], stored["quantized_dimension"])
        )
    return found


def stored_in(program):
    """The integers of a program with their scales, as they lie in a TFLite file."""
    editor = Editor(program)
    for node in calls(editor.graph, {DEQUANTIZE_STORED}):
        values, scales = (editor.value(source).numpy() for source in node.all_input_nodes[:2])
        moved, axis = (np.moveaxis(values, 1, -1) if values.ndim > 1 else values), 0
        if moved.ndim == 4 and moved.shape[-1] == 1:
            moved, axis = np.moveaxis(moved, 0, -1)[..., 0, :][None], 3
        yield moved, scales, axis


def assert_stored(program, path):
    """That every integer weight and bias of a program is in its file, with its scales and axis."""
    found = constants_in(path)
    for values, scales, axis in stored_in(program):
        same = [
            stored
            for stored in found
            if np.array_equal(stored[0], values)
            and stored[1].tobytes() == scales.tobytes()
            and stored[2] == axis
        ]
        assert same, f"{values.dtype} {values.shape}"


@pytest.mark.parametrize("kind", INTEGER)
def test_weights_biases_and_scales_are_the_program_s_to_the_bit(files, kind):
    program, path, _ = files[kind]
    assert_stored(program, path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("vit_tiny_patch16_224", 50), ("mobilevit_xxs", 72)])
def test_models_of_the_field_are_the_program_s_to_the_bit(tmp_path, name, layers):
    pytest.importorskip("timm")
    program = quantized(from_timm(name), level=Level.INTEGER)
    info = to_tflite(program, tmp_path / "model.tflite", layout="nhwc")
    assert info.options["integer_layers"] == f"{layers} of {layers}"
    assert_stored(program, tmp_path / "model.tflite")
    images = images_for(program, 1)
    found, expected = (
        one.run(images)[0] for one in (TfliteArtefact.open(tmp_path / "model.tflite"), program)
    )
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_activations_have_the_program_s_scales_and_zero_points(files, kind):
    program, path, _ = files[kind]
    wanted = {(np.float32(node.args[1]), node.args[2]) for node in calls(program.graph, {QUANTIZE})}
    details = TfliteArtefact.open(path).interpreter.get_tensor_details()
    found = {
        tensor["quantization"]
        for tensor in details
        if tensor["quantization"][0] and tensor["quantization_parameters"]["scales"].size == 1
    }
    assert {(np.float32(scale), zero_point) for scale, zero_point in found} == wanted


@pytest.mark.parametrize("kind", ["int8", "w6a6", "w4a4"])
def test_integer_kernels_compute_what_the_program_does(files, kind):
    program, path, info = files[kind]
    images = images_for(program, 16)
    assert_on_the_same_step(program, TfliteArtefact.open(path).run(images)[0], program.run(images)[0])
    assert info.options["integer_layers"] == "4 of 4"


def test_kernels_of_16_bits_differ_by_a_few_steps(files):
    program, path, info = files["w8a16"]
    images = images_for(program, 16)
    expected = program.run(images)[0]
    difference = np.abs(TfliteArtefact.open(path).run(images)[0] - expected)
    assert difference.max() < 1e-3 * np.abs(expected).max()
    assert info.options["integer_layers"] == "4 of 4"
    assert info.options["activation_bits"] == {"16": 9}


# Of integers throughout, each layer by itself; of integers in layers alone, one stands for all.
@pytest.mark.parametrize(
    ("placement", "layer"),
    [
        *(("full", layer) for layer in ("conv2d", "conv2d_1", "conv2d_2", "linear")),
        ("layers", "conv2d_1"),
        *(
            pytest.param("layers", layer, marks=pytest.mark.slow)
            for layer in ("conv2d", "conv2d_2", "linear")
        ),
    ],
)
def test_layers_of_16_bits_among_others_of_8_are_integer_kernels(tmp_path, placement, layer):
    program = mixed(program_of(Small(), size=(8, 8)), placement=placement, layers=[layer])
    info = to_tflite(program, tmp_path / "mixed.tflite")
    assert info.options["integer_layers"] == "4 of 4"
    assert info.options["activation_bits"].keys() == {"8", "16"}
    images = images_for(program, 16)
    expected, found = program.run(images)[0], TfliteArtefact.open(tmp_path / "mixed.tflite").run(images)[0]
    # A tie between two steps of 8 bits may fall the other way, and then go on through the layers behind.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(found - expected).mean() < 1e-3 * np.abs(expected).max()


def test_integers_change_their_type_in_one_operator(tmp_path):
    program = mixed(program_of(Small(), size=(8, 8)), placement="full", layers=["conv2d_1"])
    to_tflite(program, tmp_path / "mixed.tflite", integer_io=True)
    operators = count_operators(tmp_path / "mixed.tflite")
    assert operators["DEQUANTIZE"] == 0
    assert operators["QUANTIZE"] > 0


@pytest.mark.parametrize("wide", [["conv2d"], []])
def test_an_image_that_two_layers_read_on_two_grids(tmp_path, wide):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return (self.left(x) + self.right(x)).mean((2, 3))

    program = mixed(program_of(Two(), size=(8, 8)), placement="layers", layers=wide)
    to_tflite(program, tmp_path / "two.tflite")
    images = images_for(program, 4)
    expected, found = program.run(images)[0], TfliteArtefact.open(tmp_path / "two.tflite").run(images)[0]
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["int8", "w8a16"])
def test_gates_scores_and_numbers_have_kernels_of_their_bits(tmp_path, kind):
    class Scaled(nn.Module):
        """A gate, a softmax, and a product with a number."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv(x)
            x = 0.35 * (x * self.gate(x).sigmoid())
            return self.head((x * x.softmax(1)).mean((2, 3)))

    program = small(kind, Scaled)
    info = to_tflite(program, tmp_path / "scaled.tflite")
    assert info.options["integer_layers"] == "3 of 3"
    images = images_for(program, 4)
    expected, found = program.run(images)[0], TfliteArtefact.open(tmp_path / "scaled.tflite").run(images)[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["w6a6", "w4a4"])
def test_fewer_bits_saturate_where_the_program_does(files, kind):
    program, path, _ = files[kind]
    images = 50 * images_for(program, 4)
    assert_on_the_same_step(program, TfliteArtefact.open(path).run(images)[0], program.run(images)[0])


@pytest.mark.parametrize("kind", ["inputs", "weights", "dynamic"])
def test_float_kernels_read_integers_and_say_so(files, kind):
    program, path, info = files[kind]
    images = images_for(program, 4)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(path).run(images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    # The depthwise convolution's only reader wants integers.
    assert info.options["integer_layers"] == ("1 of 4" if kind == "inputs" else "0 of 4")
    assert info.options.get("dynamic_layers") == ("1 of 4" if kind == "dynamic" else None)


@pytest.mark.parametrize("kind", ["inputs", "weights", "dynamic"])
def test_float_kernels_have_their_weights_as_integers_in_the_file(files, kind):
    program, path, _ = files[kind]
    weights = [values for values, *_ in stored_in(program) if values.ndim > 1]
    found = [values for values, *_ in constants_in(path)]
    assert all(any(np.array_equal(weight, values) for values in found) for weight in weights)


class Scaled(nn.Module):
    """A linear between a norm and a factor for each channel, all of which multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.head = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.rand(6))
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).repeat(1, 1, 2)
        return self.head((tokens + self.scale * self.mix(self.norm(tokens))).mean(1))


@pytest.mark.parametrize("kind", ["weights", "dynamic"])
def test_what_multiplies_beside_a_float_layer_stays_out_of_its_weight(tmp_path, kind):
    program = small(kind, Scaled, (4, 4))
    info = to_tflite(program, tmp_path / "scaled.tflite")
    images = images_for(program, 8)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(tmp_path / "scaled.tflite").run(images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert info.options.get("dynamic_layers") == ("2 of 2" if kind == "dynamic" else None)


class Joined(nn.Module):
    """What one convolution gives is read by the next and by a join, as where a MobileViT block begins."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        made = self.first(x)
        return self.last(torch.cat([made, self.second(made).sigmoid()], 1)).mean((2, 3))


@pytest.mark.parametrize("kind", ["weights", "inputs", "int8", "w8a16"])
def test_a_layer_whose_result_another_layer_reads_beside_something_else(tmp_path, kind):
    program = small(kind, Joined)
    to_tflite(program, tmp_path / "joined.tflite")
    images = images_for(program, 8)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(tmp_path / "joined.tflite").run(images)[0]
    exact = kind == "weights"
    np.testing.assert_allclose(found, expected, atol=(1e-5 if exact else 0.03) * np.abs(expected).max())


def test_kernels_of_16_bits_add_64_bits_where_the_layer_has_no_bias(tmp_path):
    layers = (nn.Conv2d(3, 40, 1, bias=False), nn.Conv2d(40, 8, 8, bias=False), nn.Flatten(1))
    program = small("w8a16", lambda: nn.Sequential(*layers))
    to_tflite(program, tmp_path / "plain.tflite")
    model = parse((tmp_path / "plain.tflite").read_bytes())
    (graph,) = model.subgraphs
    biases = [
        graph.tensors[int(op.inputs[2])] for op in graph.operators if operator_name(model, op) == "CONV_2D"
    ]
    assert [constant(model, bias).dtype for bias in biases] == [np.int64] * 2
    images = images_for(program, 8)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(tmp_path / "plain.tflite").run(images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_a_kernel_that_quantizes_what_it_reads_by_itself_is_found(tmp_path):
    whole = program_of(Small(), size=(8, 8))
    weights, dynamic = (quantized(whole, level=level) for level in (Level.WEIGHTS, Level.DYNAMIC))
    to_tflite(dynamic, tmp_path / "dynamic.tflite")
    model = parse((tmp_path / "dynamic.tflite").read_bytes())
    with pytest.raises(EdgevitError, match="linear does quantize what it reads as it runs"):
        carry_integers(model, prepare_for_export(weights.with_batch(1)))


@pytest.mark.parametrize("to", ["onnx", "coreml"])
def test_other_runtimes_have_no_kernel_that_quantizes_tokens(files, tmp_path, to):
    with pytest.raises(EdgevitError, match="quantizes tokens as it runs, for which .* has no kernel"):
        export(files["dynamic"][0], to=(to,), output=tmp_path / "out")


@pytest.mark.parametrize("kind", ["int8", pytest.param("w6a6", marks=pytest.mark.slow), "w8a16"])
def test_a_network_with_attention_is_carried(tmp_path, kind):
    program = small(kind, Hybrid, (16, 24))
    info = to_tflite(program, tmp_path / "hybrid.tflite")
    images = images_for(program, 4)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(tmp_path / "hybrid.tflite").run(images)[0]
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
    assert info.options["integer_layers"] == "5 of 5"


def test_a_quantized_file_takes_and_gives_floats(files):
    artefact = TfliteArtefact.open(files["int8"][1])
    assert artefact.stored_inputs[0].dtype == artefact.outputs[0].dtype == "float32"


def test_integer_ends_give_the_same_as_float_ones(files, integer_ends):
    program, path, _ = files["int8"]
    artefact = TfliteArtefact.open(integer_ends[0])
    assert artefact.stored_inputs[0].dtype == artefact.outputs[0].dtype == "int8"
    assert artefact.inputs[0].dtype == "float32"
    images = images_for(program, 4)
    np.testing.assert_array_equal(artefact.run(images)[0], TfliteArtefact.open(path).run(images)[0])


def test_integer_ends_need_no_conversion(integer_ends):
    operators = count_operators(integer_ends[0])
    assert operators["QUANTIZE"] == operators["DEQUANTIZE"] == 0


def test_metadata_of_a_file_with_integer_ends_speaks_of_pixels(files, integer_ends):
    assert read_metadata(integer_ends[0]) == read_metadata(files["int8"][1])


def test_a_file_with_integer_ends_can_be_verified(files, integer_ends):
    # A value on the border of two steps may fall to the other side in torch: the same one for both files.
    program, path, _ = files["int8"]
    with_integers, with_floats = (
        verify(file, against=program, tolerance=0.1) for file in (integer_ends[0], path)
    )
    assert with_integers.passed
    assert with_integers.outputs == with_floats.outputs


def test_what_is_said_of_a_quantized_file_is_so(integer_ends):
    _, info = integer_ends
    assert info.precision == "int8"
    assert info.options == {
        "batch": 1,
        "layout": "nchw",
        "transposes": 1,
        "weight_bits": {"8": 4},
        "activation_bits": {"8": 9},
        "integer_layers": "4 of 4",
        "integer_io": True,
    }


def test_an_export_takes_the_option(files, tmp_path):
    result = export(
        files["int8"][0], to=["tflite"], output=tmp_path / "out", integer_io=True, verify_artefacts=False
    )
    assert result.artefacts[0].info.inputs[0].dtype == "int8"


@pytest.mark.parametrize(
    ("kind", "end"), [("inputs", "logits"), ("weights", "the image")], ids=["output", "input"]
)
def test_integer_ends_are_refused_where_there_is_no_quantizer(files, tmp_path, kind, end):
    with pytest.raises(EdgevitError, match=rf"^--integer-io: {end} has no quantizer in the program"):
        to_tflite(files[kind][0], tmp_path / "a.tflite", integer_io=True)
    assert not list(tmp_path.iterdir())


def test_integer_ends_are_refused_for_a_float_program(tmp_path):
    with pytest.raises(EdgevitError, match=r"^--integer-io: small is not quantized"):
        to_tflite(program_of(Small(), size=(8, 8)), tmp_path / "a.tflite", integer_io=True)


def test_float16_is_refused_for_a_quantized_program(files, tmp_path):
    with pytest.raises(EdgevitError, match=r"^--precision fp16: small is quantized"):
        to_tflite(files["int8"][0], tmp_path / "a.tflite", precision="fp16")


def test_a_bias_that_float32_cannot_hold_keeps_every_bit(tmp_path):
    class Dead(nn.Module):
        """One channel's weight so small that its bias is a large integer."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    module = Dead()
    program = program_of(module, size=(4, 4))
    with torch.no_grad():
        program.exported.state_dict["conv.weight"][1] *= 1e-4
        program.exported.state_dict["conv.bias"][1] = 0.7654321
    program = quantized(program, level=Level.INTEGER, everything=True)
    bias = next(values for values, *_ in stored_in(program) if values.dtype == np.int32)
    assert np.float32(bias[1]) != bias[1]
    to_tflite(program, tmp_path / "dead.tflite")
    found = [values for values, *_ in constants_in(tmp_path / "dead.tflite") if values.dtype == np.int32]
    np.testing.assert_array_equal(found[0], bias)


def test_a_result_that_is_read_on_two_grids_is_rounded_once_for_each(tmp_path):
    class Branches(nn.Module):
        """What the first layer gives is read by another, and joined with more for a third."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.third = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            first = self.first(x)
            return self.third(torch.cat([first, 30 * self.second(first).sigmoid()], 1)).mean((2, 3))

    program = quantized(program_of(Branches(), size=(4, 4)), level=Level.INPUTS)
    to_tflite(program, tmp_path / "branches.tflite")
    images = images_for(program, 16)
    expected = program.run(images)[0]
    found = TfliteArtefact.open(tmp_path / "branches.tflite").run(images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert count_operators(tmp_path / "branches.tflite")["COS"] == 0


def test_a_float_factor_between_two_layers_stays_float(tmp_path):
    class Scaled(nn.Module):
        """As equalized outputs are restored, or smoothed inputs made."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.factor = nn.Parameter(torch.tensor([1.0, 0.5, 0.25, 0.3])[:, None, None])

        def forward(self, x):
            return self.second(self.first(x) * self.factor).mean((2, 3))

    program = quantized(program_of(Scaled(), size=(4, 4)), level=Level.INTEGER)
    to_tflite(program, tmp_path / "scaled.tflite")
    images = images_for(program, 16)
    found = TfliteArtefact.open(tmp_path / "scaled.tflite").run(images)[0]
    assert_on_the_same_step(program, found, program.run(images)[0])
    assert count_operators(tmp_path / "scaled.tflite")["COS"] == 0


def test_softmax_on_a_grid_that_its_kernel_has_not_is_computed_in_floats(tmp_path):
    class Scores(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).softmax(-1)

    program = quantized(program_of(Scores(), size=(4, 4)), level=Level.INTEGER, everything=True)
    editor = Editor(program)
    last = calls(editor.graph, {QUANTIZE})[-1]
    for node in (last, *last.users):
        node.update_arg(1, 0.00390625 * 1.5)
    program = editor.finish("another_grid")
    to_tflite(program, tmp_path / "scores.tflite")
    images = images_for(program, 4)
    found = TfliteArtefact.open(tmp_path / "scores.tflite").run(images)[0]
    np.testing.assert_allclose(found, program.run(images)[0], atol=1e-6)


PLACES = torch.tensor([2, 0, 1, 3])
TOKEN = torch.linspace(-9, 9, 16).reshape(1, 4, 1, 4)
KEEPERS = {
    "stack": lambda x: torch.stack([x, x.mul(2)]).sum(0),
    "cat": lambda x: torch.cat([x, x * 2], 2).sum(2, keepdim=True),
    "constant": lambda x: torch.cat([x, TOKEN.to(x.device)], 2).sum(2, keepdim=True),
    "bilinear": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "nearest": lambda x: nn.functional.interpolate(x, scale_factor=2, mode="nearest"),
    "pad": lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=0.25),
    "roll": lambda x: x.roll(1, 2),
    "flip": lambda x: x.flip(3),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "index_select": lambda x: x.index_select(2, PLACES.to(x.device)),
    "gather": lambda x: x.gather(3, PLACES.to(x.device).expand(x.shape)),
    "index": lambda x: x[:, :, PLACES.to(x.device)],
    "where": lambda x: torch.where(x > 0.1, x, x.mul(0.5)),
    "maximum": lambda x: torch.maximum(x, x.mul(-0.5)),
    "minimum": lambda x: torch.minimum(x, x.mul(-0.5)),
    "amax": lambda x: x.amax(3, keepdim=True),
    "amin": lambda x: x.amin(3, keepdim=True),
    "reflect": lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "tile": lambda x: x.tile(1, 1, 2, 1),
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_what_would_keep_its_grid_is_computed_in_floats_where_the_next_is_another(tmp_path, keeper):
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.second(KEEPERS[keeper](self.first(x))).mean((2, 3))

    program = quantized(program_of(Between(), size=(4, 4)), level=Level.INTEGER)
    editor = Editor(program)
    (made,) = [node for node in calls(editor.graph, {QUANTIZE}) if node.args[0].name == "conv2d"]
    for node in (made, *made.users):
        node.update_arg(1, node.args[1] * 1.5)
    program = editor.finish("another_grid")
    to_tflite(program, tmp_path / "between.tflite")
    images = images_for(program, 8)
    found = TfliteArtefact.open(tmp_path / "between.tflite").run(images)[0]
    assert_on_the_same_step(program, found, program.run(images)[0])
    assert count_operators(tmp_path / "between.tflite")["COS"] == 0


def alter_weight(model, tensor):
    model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data.copy()
    model.buffers[tensor.buffer].data[3] ^= 1


def alter_scale(model, tensor):
    tensor.quantization.scale = np.nextafter(tensor.quantization.scale, np.float32(1))


def alter_zero_point(model, tensor):
    tensor.quantization.zeroPoint = tensor.quantization.zeroPoint + 1


@pytest.mark.parametrize(
    ("slot", "alter", "said"),
    [
        ("weight", alter_weight, "the integer weight or the scales"),
        ("weight", alter_scale, "the integer weight or the scales"),
        ("bias", alter_weight, "the integer bias of"),
        ("input", alter_zero_point, "reads int8 with scale"),
        ("output", alter_scale, "writes int8 with scale"),
    ],
)
def test_what_the_converter_changed_is_found(files, slot, alter, said):
    program, path, _ = files["int8"]
    model = parse(path.read_bytes())
    graph = model.subgraphs[0]
    conv = next(op for op in graph.operators if operator_name(model, op) == "CONV_2D")
    index = conv.outputs[0] if slot == "output" else conv.inputs[["input", "weight", "bias"].index(slot)]
    alter(model, graph.tensors[int(index)])
    with pytest.raises(EdgevitError, match=rf"changed its quantization: .*{said}"):
        carry_integers(model, prepare_for_export(program.with_batch(1)))


def test_a_lost_layer_is_found(files):
    program, path, _ = files["int8"]
    model = parse(path.read_bytes())
    graph = model.subgraphs[0]
    graph.operators = [op for op in graph.operators if operator_name(model, op) != "FULLY_CONNECTED"]
    with pytest.raises(EdgevitError, match="the file has no layer with the integer weight of linear"):
        carry_integers(parse(serialise(model)), prepare_for_export(program.with_batch(1)))


def test_a_quantized_image_without_a_scale_is_refused(integer_ends, tmp_path):
    model = parse(integer_ends[0].read_bytes())
    model.metadata = None
    graph = model.subgraphs[0]
    graph.tensors[int(graph.inputs[0])].quantization = None
    path = tmp_path / "bare.tflite"
    path.write_bytes(serialise(model))
    with pytest.raises(EdgevitError, match=r"(takes a int8 tensor|is not a model that)"):
        TfliteArtefact.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dynamic"])
def test_a_quantized_file_runs_on_the_last_tflite_runtime(files, older_runtime, tmp_path, kind):  # noqa: F811
    program, path, _ = files[kind]
    images = images_for(program, 1)
    expected = program.run(images)[0]
    found = run_older(older_runtime, path, images, tmp_path)
    # Integer kernels of another release may round the other way, and so may what reads them.
    steps = [node.args[1] for node in calls(program.graph, {QUANTIZE})] if kind in INTEGER else [0]
    assert np.abs(found - expected).max() <= 2.5 * steps[-1] + 1e-5


@pytest.mark.slow
def test_a_runtime_without_hybrid_kernels_of_channels_says_so(files, older_runtime, tmp_path):  # noqa: F811
    program, path, _ = files["dynamic"]
    with pytest.raises(AssertionError, match="FULLY_CONNECTED"):
        run_older(older_runtime, path, images_for(program, 1), tmp_path)
