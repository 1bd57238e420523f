"""Quantizers in the graph compute what grids applied to the float graph compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.grids import quantize_bias
from edgevit.quant.insertion import Quantization, decomposed, insert_quantizers
from edgevit.quant.levels import Level, gives_integers, is_read_as_integer, level_of
from edgevit.quant.operators import bias_of, input_of, is_layer, weight_of
from tests.quant.helpers import (
    Folded,
    Net,
    Started,
    Tokens,
    all_named,
    images,
    logits,
    named,
    prepared,
    seeded,
    started,
)

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}


def by_overrides(found: Started, batch: torch.Tensor) -> torch.Tensor:
    """The float graph, node by node, each value rounded where a reader wants it rounded."""
    program, quantization = found.program, found.quantization
    runner, grids = Runner(program), quantization.activations
    known = {runner.image: batch, **runner.constants}

    def read(source, user):
        value = known[source.name]
        rounded = source.name in grids and (
            gives_integers(source, found.levels) or is_read_as_integer(source, user, found.levels)
        )
        return grids[source.name].quantize(value) if rounded else value

    for node in program.graph.nodes:
        if node.op == "output":
            return read(node.args[0][0], node)
        if node.op != "call_function":
            continue
        if is_layer(node) and node.name in quantization.weights:
            weight = quantization.weights[node.name]
            known[weight_of(node).name] = weight.dequantize()
            bias = bias_of(node)
            if bias is not None and level_of(node, found.levels) >= Level.INPUTS:
                scales = weight.scales * grids[input_of(node).name].scale
                integers = quantize_bias(runner.constants[bias.name], scales)
                known[bias.name] = integers.float() * scales
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n, node=node: read(n, node))
        known[node.name] = node.target(*args, **kwargs)
    raise AssertionError("no output")


def targets(program: Program, *operators: object) -> int:
    return sum(node.target in operators for node in program.graph.nodes)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(list(PROGRAMS)),
    st.sampled_from(["inputs", "layers", "full"]),
    st.sampled_from(["w8a8", "w8a16", "w4a4", "w4a8"]),
    st.sampled_from(["sym", "asym"]),
    st.integers(0, 99),
)
def test_a_quantized_program_computes_the_float_graph_with_its_grids_applied(
    model, placement, precision, scheme, seed
):
    found = started(PROGRAMS[model], placement, precision, scheme=scheme)
    batch = images(3, seed=seed)
    with torch.no_grad():
        expected = by_overrides(found, batch)
    assert torch.equal(logits(found.quantized, batch), expected)


@pytest.mark.parametrize("model", PROGRAMS)
def test_weights_alone_round_no_activation(model):
    found = started(PROGRAMS[model], precision="w8")
    quantized = found.quantized
    assert targets(quantized, decomposed.quantize_per_tensor.default) == 0
    assert targets(quantized, decomposed.dequantize_per_channel.default) == len(found.quantization.weights)
    with torch.no_grad():
        assert torch.allclose(logits(quantized), by_overrides(found, images()), atol=1e-6)


def test_nothing_to_quantize_leaves_what_is_computed():
    program = PROGRAMS[Net]
    assert torch.equal(logits(insert_quantizers(program, Quantization({}, {}, {}))), logits(program))


def test_a_layer_on_integer_inputs_gives_floats():
    quantized = started(PROGRAMS[Net], "inputs").quantized
    pairs = [node for node in quantized.graph.nodes if node.target is decomposed.quantize_per_tensor.default]
    assert [node.args[0].name for node in pairs] == [
        Runner(quantized).image,
        named(quantized, "relu").name,
        named(quantized, "mean").name,
    ]


def test_no_pair_stands_between_a_layer_and_the_activation_it_absorbs():
    for placement in ("layers", "full"):
        quantized = started(PROGRAMS[Net], placement).quantized
        assert named(quantized, "relu").args[0] is named(quantized, "conv2d")


def test_all_readers_of_integers_share_one_pair():
    quantized = started(PROGRAMS[Net], "full").quantized
    relu = named(quantized, "relu")
    assert len(relu.users) == 1
    dequantized = next(iter(next(iter(relu.users)).users))
    assert len(dequantized.users) == 2


def test_a_float_reader_beside_an_integer_one_reads_the_float():
    quantized = started(PROGRAMS[Net], "inputs").quantized
    relu, add = named(quantized, "relu"), named(quantized, "add")
    assert relu in add.all_input_nodes


def test_grids_weights_and_biases_are_in_the_graph_to_the_bit():
    found = started(PROGRAMS[Net])
    quantized = found.quantized
    runner = Runner(quantized)
    for node in all_named(quantized, "conv2d") + all_named(quantized, "linear"):
        weight, bias = weight_of(node), bias_of(node)
        expected = found.quantization.weights[node.name]
        assert torch.equal(runner.constants[weight.args[0].name], expected.values)
        assert torch.equal(runner.constants[weight.args[1].name], expected.scales)
        grid_scale = input_of(node).args[1]
        assert torch.equal(runner.constants[bias.args[1].name], expected.scales * grid_scale)
    for node in quantized.graph.nodes:
        if node.target is decomposed.quantize_per_tensor.default:
            grid = found.quantization.activations[node.args[0].name]
            assert node.args[1:5] == (grid.scale, grid.zero_point, grid.quant_min, grid.quant_max)


@pytest.mark.parametrize("precision", ["w8a8", "w8"])
def test_a_corrected_bias_takes_the_place_of_the_layers_own(precision):
    found = started(PROGRAMS[Net], "inputs", precision)
    head = named(found.program, "linear")
    corrected = torch.tensor([1.0, -2.0, 3.0, -4.0])
    own = Runner(found.program).constants[bias_of(head).name]
    old = found.quantization
    new = Quantization(old.levels, old.activations, old.weights, {head.name: corrected})
    moved = logits(insert_quantizers(found.program, new)) - logits(found.quantized)
    assert torch.allclose(moved, (corrected - own).expand_as(moved), atol=1e-3)


def test_a_layer_that_two_places_use_is_quantized_for_each():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x) * 10).mean((2, 3))

    found = started(seeded(Twice))
    with torch.no_grad():
        assert torch.allclose(logits(found.quantized), by_overrides(found, images()), rtol=1e-5, atol=1e-6)
    assert targets(found.quantized, decomposed.dequantize_per_channel.default) == 4


def test_a_layer_without_a_bias_gets_none():
    found = started(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 8, bias=False), nn.Flatten())))
    assert targets(found.quantized, decomposed.dequantize_per_channel.default) == 1
    with torch.no_grad():
        assert torch.allclose(logits(found.quantized), by_overrides(found, images()), rtol=1e-5, atol=1e-6)


def test_a_constant_that_is_added_is_rounded_in_placement_full():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + self.position).mean((2, 3))

    found = started(Shifted(), "full")
    position = next(name for name in Runner(found.program).constants)
    grid = found.quantization.activations[position]
    assert (grid.low, grid.high) == pytest.approx((-1, 1), abs=0.02)
    with torch.no_grad():
        assert torch.allclose(logits(found.quantized), by_overrides(found, images()), atol=1e-6)


def test_the_float_program_is_left_as_it_was():
    program = PROGRAMS[Net]
    before = str(program.graph)
    logits(started(program, "full").quantized)
    assert str(program.graph) == before


@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w4a4", "w8"])
def test_saving_and_loading_a_quantized_program_is_identity(tmp_path, precision):
    quantized = started(PROGRAMS[Tokens], "full" if precision != "w8" else "layers", precision).quantized
    loaded = Program.load(quantized.save(tmp_path / "a.pt2"))
    batch = images(3).numpy()
    assert np.array_equal(loaded.run(batch)[0], quantized.run(batch)[0])
    assert loaded.card == quantized.card
    assert loaded.batch is None
    for name, value in quantized.exported.state_dict.items():
        assert torch.equal(loaded.exported.state_dict[name], value), name


def test_the_batch_of_a_quantized_program_stays_open():
    quantized = started(PROGRAMS[Folded], "full").quantized
    assert quantized.batch is None
    assert torch.allclose(logits(quantized, images(5))[:2], logits(quantized, images(5)[:2]), atol=1e-5)
