"""`quantize` from end to end: what comes out, what is refused, what is remarked."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.quant import drafting, presteps, quantizing
from edgevit.quant.enclosing import with_enclosed
from edgevit.quant.floor import Floor
from edgevit.quant.insertion import decomposed, is_quantized
from edgevit.quant.levels import Level
from edgevit.quant.operators import LAYERS
from edgevit.quant.precision import BIT_WIDTHS
from edgevit.quant.quantizing import QuantizeResult, quantize
from edgevit.quant.sensitivity import changed
from edgevit.quant.simulation import is_layer_with_integers
from tests.quant.helpers import SHAPE, Folded, Net, Tokens, images, logits, named, seeded, values
from tests.rewrites.helpers import program_of

PROGRAMS = {model: program_of(seeded(model), SHAPE) for model in (Net, Tokens, Folded)}
IMAGES = images(64).numpy()
METHODS = ("minmax", "hessian", "reconstruct")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of a few candidates."""
    options = quantizing.SearchOptions
    monkeypatch.setattr(
        quantizing, "SearchOptions", lambda **given: options(**given, candidates=8, rounds=1, images=8)
    )


def run(model=Net, **options) -> QuantizeResult:
    program = model if isinstance(model, Program) else PROGRAMS[model]
    return quantize(program, IMAGES, **{"method": "minmax", "iterations": 3} | options)


def layers(program: Program) -> list:
    return [node for node in program.graph.nodes if node.target in LAYERS]


def quantizers(program: Program) -> list:
    return [node for node in program.graph.nodes if node.target is decomposed.quantize_per_tensor.default]


def broken(change) -> Program:
    """`Net` after something happened to it."""
    module = seeded(Net)
    with torch.no_grad():
        change(module)
    return program_of(module, SHAPE)


@pytest.mark.parametrize("placement", ["inputs", "layers", "full"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", PROGRAMS)
def test_eight_bits_change_predictions_little(model, method, placement):
    result = run(model, method=method, placement=placement)
    expected, found = logits(PROGRAMS[model]), logits(result.program)
    assert all(map(is_layer_with_integers, layers(result.program)))
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
    assert result.program.batch is None
    assert is_quantized(result.program)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", BIT_WIDTHS)
def test_every_precision_has_its_bits_in_the_graph(method, precision):
    result = run(Tokens, precision=precision, method=method)
    bits = BIT_WIDTHS[precision]
    for node in layers(result.program):
        assert node.args[1].args[4:6] == (1 - 2 ** (bits.weights - 1), 2 ** (bits.weights - 1) - 1)
    assert bool(quantizers(result.program)) == (bits.activations is not None)
    for node in quantizers(result.program):
        assert node.args[4] == 2 ** (bits.activations - 1) - 1
        assert node.args[5] == (torch.int16 if bits.activations == 16 else torch.int8)
    assert bool(torch.isfinite(logits(result.program)).all())


def test_the_same_seed_gives_the_same_program():
    first, second = (run(Tokens, method="reconstruct", precision="w4a4", seed=3) for _ in range(2))
    assert str(first.program.graph) == str(second.program.graph)
    state = second.program.exported.state_dict
    assert all(torch.equal(value, state[name]) for name, value in first.program.exported.state_dict.items())


def test_nothing_stands_between_a_convolution_and_its_relu():
    for placement in ("layers", "full"):
        program = run(placement=placement).program
        assert named(program, "relu").args[0] is named(program, "conv2d")


def test_the_card_says_how_it_was_quantized():
    result = run(exclude=["stem"], precision="w4a8", seed=5)
    step = result.program.card.steps[-1]
    assert step.name == "quantize"
    assert (step.options["precision"], step.options["exclude"], step.options["seed"]) == ("w4a8", ["stem"], 5)
    assert step.measured["images"] == len(IMAGES)
    assert [each.name for each in result.program.card.steps[:-1]] == [
        each.name for each in PROGRAMS[Net].card.steps
    ]


def test_saving_and_loading_keeps_what_is_computed_and_said(tmp_path):
    result = run(Tokens, method="reconstruct", placement="full")
    loaded = Program.load(result.program.save(tmp_path / "a.pt2"))
    assert np.array_equal(loaded.run(IMAGES)[0], result.program.run(IMAGES)[0])
    assert loaded.card == result.program.card


def test_the_program_that_is_given_stays_as_it_is():
    before, expected = str(PROGRAMS[Net].graph), logits(PROGRAMS[Net])
    run(method="reconstruct", placement="full")
    assert str(PROGRAMS[Net].graph) == before
    assert torch.equal(logits(PROGRAMS[Net]), expected)


def test_each_block_is_reported_where_blocks_are_learned_and_no_other_method_has_any():
    assert [result.block for result in run(method="reconstruct").blocks] == ["stem", "mix", "head"]
    assert run().blocks == run(method="hessian").blocks == ()


def test_levels_that_are_given_take_the_place_of_a_placement():
    names = [node.name for node in layers(prepare_for_export(PROGRAMS[Net]))]
    levels = {names[0]: Level.INPUTS, names[1]: Level.WEIGHTS}
    result = run(levels=levels)
    assert result.levels == levels
    assert [is_layer_with_integers(node) for node in layers(result.program)] == [True, True, False]


def test_a_silu_among_integers_is_computed_in_integers():
    program = program_of(seeded(lambda: Net(nn.SiLU)), SHAPE)
    graph = prepare_for_export(program).graph
    silu = next(node.name for node in graph.nodes if "silu" in str(node.target))
    levels = with_enclosed(graph, {node.name: Level.INTEGER for node in layers(prepare_for_export(program))})
    assert silu in levels
    result = run(program, levels=levels)
    assert result.levels == {**levels, f"{silu}_sigmoid": Level.INTEGER}
    reads = {named(result.program, "sigmoid").args[0], *named(result.program, "mul").args}
    assert {node.target for node in reads} == {decomposed.dequantize_per_tensor.default}


@pytest.mark.parametrize(
    ("levels", "precision", "sentence"),
    [
        (
            {"linaer": Level.INPUTS},
            "w8a8",
            'levels: linaer: model has no such operation; did you mean "linear',
        ),
        ({"conv2d": Level.DYNAMIC}, "w8a8", "levels: conv2d: only linears are dynamic, and only with 8-bit"),
        ({"linear": Level.DYNAMIC}, "w8a16", "levels: linear: only linears are dynamic, and only with 8-bit"),
        ({"linear": Level.INPUTS}, "w8", "levels: linear: with these bits activations stay float"),
        ({"relu": Level.WEIGHTS}, "w8a8", "levels: relu: it has no weights; take inputs or integer"),
        ({"layer_norm": Level.INTEGER}, "w8a8", "levels: layer_norm: integer runtimes have no kernel for it"),
    ],
)
def test_levels_that_an_operation_cannot_have_are_refused(levels, precision, sentence):
    normed = nn.Sequential(nn.Conv2d(3, 8, 4), nn.ReLU(), nn.Flatten(2), nn.LayerNorm(25), nn.Linear(25, 4))
    with pytest.raises(EdgevitError, match=sentence):
        run(program_of(normed, (3, 8, 8)), levels=levels, precision=precision)


@pytest.mark.parametrize("other", [{"placement": "full"}, {"exclude": ["stem"]}], ids=str)
def test_levels_and_what_would_choose_them_are_refused_together(other):
    with pytest.raises(EdgevitError, match="levels are given: leave placement and exclude out"):
        run(levels={}, **other)


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        ({}, "gains: what conv2d saves is missing; give a number for every layer"),
        ({"conv2d": 0.0}, "gains: conv2d saves 0 ms; give a number above 0, however small"),
    ],
    ids=["missing", "nothing"],
)
def test_what_a_layer_saves_is_a_number_above_0(gains, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        run(levels={"conv2d": Level.INPUTS}, gains=gains)


@pytest.mark.parametrize("cheap", range(2))
def test_a_layer_that_saves_little_time_is_left_float_whatever_its_arithmetic(cheap):
    sure = seeded(Tokens)
    with torch.no_grad():
        sure.head.weight *= 50
    program = program_of(sure, SHAPE)
    everything = {node.name: Level.INPUTS for node in layers(prepare_for_export(program))}
    name = list(everything)[cheap]
    gains = dict.fromkeys(everything, 1.0) | {name: 1e-3}
    result = run(program, precision="w4a4", levels=everything, gains=gains)
    assert result.kept_float == {name: "its quantization does much damage and saves little time"}


def test_gains_without_levels_are_refused():
    with pytest.raises(EdgevitError, match="gains are given without levels"):
        run(gains={"conv2d": 1.0})


@pytest.mark.parametrize("pattern", ["mix", "m?x", "conv2d_1"])
@pytest.mark.parametrize("method", METHODS)
def test_excluded_layers_stay_float(method, pattern):
    result = run(method=method, exclude=[pattern], placement="full")
    assert [is_layer_with_integers(node) for node in layers(result.program)] == [True, False, True]


def test_everything_can_be_excluded():
    result = run(method="reconstruct", exclude=["*"])
    assert torch.allclose(logits(result.program), logits(PROGRAMS[Net]), atol=1e-6)
    assert not is_quantized(result.program)
    assert result.drop == 0


def test_seven_images_are_refused():
    with pytest.raises(EdgevitError, match="--calib: 7 images are too few"):
        quantize(PROGRAMS[Net], IMAGES[:7])


def test_one_class_alone_is_warned_of_and_quantized():
    with pytest.warns(UserWarning, match="all 64 images are of class 1"):
        assert is_quantized(run(labels=[1] * 64).program)


def test_a_weight_that_is_no_number_is_refused_by_the_layers_name():
    def change(module: Net) -> None:
        module.head.weight[0, 0] = math.nan

    with pytest.raises(EdgevitError, match="the weight of head holds NaN or infinite values"):
        run(broken(change))


@pytest.mark.parametrize("precision", ["w8a8", "w4a4", "w8"])
@pytest.mark.parametrize("method", METHODS)
def test_dead_channels_are_quantized_and_named(method, precision):
    def change(module: Net) -> None:
        module.stem.weight[:2] = 0
        module.stem.bias[:2] = 0

    program = broken(change)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = run(program, method=method, precision=precision)
    assert result.remarks == ("stem: 2 of 8 output channels have only zero weights",)
    assert bool(torch.isfinite(logits(result.program)).all())


@pytest.mark.parametrize("method", METHODS)
def test_constant_activations_are_quantized_and_named(method):
    def change(module: Net) -> None:
        module.mix.weight.zero_()
        module.mix.bias.fill_(-0.5)

    program = broken(change)
    result = run(program, method=method, placement="full")
    assert "mix: its output is -0.5 on every calibration image" in result.remarks
    assert float((logits(result.program) - logits(program)).abs().max()) < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_always_says_the_same_is_quantized(method):
    def change(module: Net) -> None:
        for parameter in module.parameters():
            parameter.zero_()

    result = run(broken(change), method=method, precision="w4a4", placement="full")
    assert torch.equal(logits(result.program), torch.zeros(12, 4))


def test_a_constant_that_is_added_is_quantized_in_placement_full():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8))
            self.head = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head((x + self.position).mean((2, 3)))

    result = run(program_of(seeded(Shifted), SHAPE), placement="full", method="reconstruct")
    rounded = [node.args[0].name for node in quantizers(result.program)]
    assert any("position" in name for name in rounded)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "w8a9"}, "--quantize: 'w8a9' is unknown; did you mean \"w8a8\""),
        ({"method": "minmx"}, "--method: 'minmx' is unknown; did you mean \"minmax\""),
        ({"granularity": "chanel"}, "--granularity: 'chanel' is unknown; did you mean \"channel\""),
        ({"scheme": "asim"}, "--scheme: 'asim' is unknown; did you mean \"asym\""),
        ({"placement": "layer"}, "--placement: 'layer' is unknown; did you mean \"layers\""),
        ({"exclude": ["hed"]}, '--exclude hed: it fits none of the 3 layers; did you mean "head"'),
        ({"torch_device": "cuba"}, "--torch-device: 'cuba' is unknown; did you mean \"cuda\""),
        ({"max_drop": -1.0}, "--max-drop: -1.0 is negative"),
        ({"fallback": "int8", "max_drop": 1.0}, "--fallback: 'int8' is unknown; did you mean \"int16\""),
        ({"fallback": "int16"}, "--fallback int16: without --max-drop no layer falls back; give it too"),
        (
            {"fallback": "int16", "max_drop": 1.0, "precision": "w8"},
            "--fallback int16: w8 leaves activations float; leave it out",
        ),
        (
            {"fallback": "int16", "max_drop": 1.0, "precision": "w8a16"},
            "--fallback int16: w8a16 has 16-bit activations already; leave it out",
        ),
        ({"iterations": 0}, "--iterations: 0; at least 1 is needed"),
        ({"precision": "w8", "placement": "full"}, "--placement full: w8 leaves activations float"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_option_that_means_nothing_is_refused_with_what_would(options, sentence):
    with pytest.raises(EdgevitError) as found:
        run(**options)
    assert sentence in str(found.value)


def test_a_quantized_program_is_refused():
    with pytest.raises(EdgevitError, match="model is quantized already; start from the float program"):
        run(run().program)


def test_a_program_of_a_fixed_batch_is_refused():
    fixed = program_of(seeded(Net), SHAPE, dynamic_batch=False)
    with pytest.raises(EdgevitError, match="model was captured for a batch of 1; capture it with a dynamic"):
        run(fixed)


@pytest.mark.parametrize("placement", ["inputs", "layers", "full"])
@pytest.mark.parametrize("method", ["minmax", "reconstruct"])
def test_no_drop_at_all_is_met_by_keeping_layers_float(method, placement):
    options = {"precision": "w4a4", "placement": placement, "method": method}
    assert run(Tokens, **options).drop > 0
    result = run(Tokens, **options, max_drop=0.0, fallback="float")
    assert result.drop == 0
    assert changed(logits(PROGRAMS[Tokens], images(64)), logits(result.program, images(64))) == 0
    kept = [name for name, reason in result.kept_float.items() if reason == "--max-drop 0"]
    floats = [node.name for node in layers(result.program) if not is_layer_with_integers(node)]
    assert sorted(kept) == sorted(floats) != []


def test_the_floor_is_met_where_what_stands_between_layers_does_the_damage(monkeypatch):
    # As if layers went float in vain: only when nothing is left on integers the predictions are the same.
    monkeypatch.setattr(Floor, "drop", lambda _, found: 50.0 if found.activations else 0.0)
    result = run(placement="full", max_drop=1.0)
    assert not is_quantized(result.program)
    assert result.drop == 0


@pytest.mark.parametrize(
    ("placement", "fallback", "widened"),
    [
        ("full", None, True),
        ("full", "float", False),
        ("layers", None, False),
        ("layers", "int16", True),
    ],
)
def test_layers_fall_back_to_16_bits_where_that_is_asked_for_or_all_is_integer(placement, fallback, widened):
    options = {"precision": "w4a4", "placement": placement, "max_drop": 0.0}
    result = run(Tokens, **options, fallback=fallback)
    assert result.drop == 0
    assert bool(result.widened) == widened
    assert bool(result.kept_float) != widened
    measured = result.program.card.steps[-1].measured
    assert measured["widened"] == list(result.widened)
    types = {node.args[-1] for node in quantizers(result.program)}
    assert (torch.int16 in types) == widened


def test_a_floor_that_holds_keeps_no_layer_float():
    result = run(Tokens, max_drop=100.0)
    assert result.kept_float == {}


def test_a_drop_with_labels_is_in_points_of_accuracy():
    found = logits(PROGRAMS[Tokens], images(64)).argmax(-1)
    quantized = logits(run(Tokens, precision="w4a4").program, images(64)).argmax(-1)
    labels = [int(label) for label in found]
    wrong = 100 * float((found != quantized).float().mean())
    assert wrong > 0
    assert run(Tokens, precision="w4a4", labels=labels).drop == pytest.approx(wrong)
    # Predictions that change, but not for the worse, are no drop.
    assert run(Tokens, precision="w4a4", labels=[int(label) for label in quantized]).drop <= 0


def test_a_layer_that_does_most_of_the_damage_is_kept_float_and_said_so(monkeypatch):
    def measured(program, quantization, batch):
        found = quantizing.LayerSensitivity
        names = [*quantization.weights, "a", "b", "c", "d"]
        return tuple(found(name, "", 1.0 if name == names[0] else 0.02, 0.0) for name in names)

    monkeypatch.setattr(drafting, "sensitivities", measured)
    # Of some of the names nobody knows what they cost.
    monkeypatch.setattr(drafting, "bargains", lambda *_: [])
    result = run(placement="full")
    stem = layers(result.program)[0]
    assert result.kept_float == {stem.name: "its quantization alone does most of the damage"}
    assert not is_layer_with_integers(stem)
    assert bool(torch.isfinite(logits(result.program)).all())
    everything = run(placement="full", spare=False)
    assert everything.kept_float == {}
    assert all(map(is_layer_with_integers, layers(everything.program)))


def test_a_layer_of_unlike_channels_is_equalized_and_named(monkeypatch):
    # A model so small is never damaged much.
    monkeypatch.setattr(presteps, "_DAMAGE_OF_OUTPUT", 0.0)

    class Unlike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 4)
            with torch.no_grad():
                self.mix.weight[1:] *= 0.01
                self.mix.bias[1:] *= 0.01
                self.head.weight[:, 1:] *= 100

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.gelu(self.mix(x)).mean((2, 3)))

    program = program_of(seeded(Unlike), SHAPE)
    result = run(program, placement="layers")
    assert result.equalized == ("conv2d",)
    expected = logits(program)
    error = float((logits(result.program) - expected).abs().max())
    monkeypatch.setattr(presteps, "_WORTH_EQUALIZING", math.inf)
    plain = run(program, placement="layers")
    assert plain.equalized == ()
    assert error < float((logits(plain.program) - expected).abs().max())


@pytest.mark.parametrize(("precision", "room"), [("w8a8", 1.25), ("w6a6", 1.0)])
def test_a_product_that_smooths_has_headroom_at_8_bits(precision, room, monkeypatch):
    monkeypatch.setattr(presteps, "_DAMAGE", 0.0)

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
            with torch.no_grad():
                self.mix.weight[0] *= 100

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.relu(self.mix(x))).mean((2, 3))

    result = run(program_of(seeded(Loud), SHAPE), placement="inputs", precision=precision, method="minmax")
    product = named(result.program, "mul")
    (pair,) = product.users
    scale, zero_point, _, highest, _ = pair.args[1:]
    seen = values(result.program, [product.name], torch.from_numpy(IMAGES))[product.name].max()
    assert (highest - zero_point) * scale == pytest.approx(room * float(seen), rel=0.05)


def test_channels_last_layers_are_equalized_along_their_channels(monkeypatch):
    monkeypatch.setattr(presteps, "_DAMAGE_OF_OUTPUT", 0.0)

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(3, 12), nn.Linear(12, 4)
            with torch.no_grad():
                self.linear.weight[1:] *= 0.01
                self.linear.bias[1:] *= 0.01

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.gelu(self.linear(x.permute(0, 2, 3, 1))).mean((1, 2)))

    program = program_of(seeded(ChannelsLast), SHAPE)
    result = run(program, placement="layers")
    assert result.equalized == ("linear",)
    assert torch.allclose(logits(result.program), logits(program), atol=0.02)
