"""Layers on 16 bits among others on 8: grids, conversions, and what stays as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.rewriting import is_call
from edgevit.graph.running import Runner
from edgevit.quant.grids import UNIT_INTERVAL
from edgevit.quant.insertion import Quantization, decomposed, insert_quantizers
from edgevit.quant.levels import Level, computes_integers, groups, written
from edgevit.quant.operators import FUSED_ACTIVATIONS
from edgevit.quant.widening import Widening, widened_layers
from tests.quant.helpers import Folded, Net, Started, Tokens, logits, named, seeded, started

QUANTIZE, DEQUANTIZE = decomposed.quantize_per_tensor.default, decomposed.dequantize_per_tensor.default
PLACEMENTS = ("inputs", "layers", "full")


class Gated(nn.Module):
    """A map times a gate computed from its mean, as in squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.stem(image).relu()
        return self.head((made * self.gate(made.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))


MODELS = (Net, Tokens, Folded, Gated)
STARTED = {
    (model, placement): started(seeded(model), placement) for model in MODELS for placement in PLACEMENTS
}


def widened(found: Started, *layers: str) -> Quantization:
    return widening(found).widen(found.quantization, layers)


def widening(found: Started) -> Widening:
    return Widening(found.program, found.observed, "auto")


@given(st.sampled_from(sorted(STARTED, key=str)), st.data())
def test_every_operation_reads_and_gives_integers_of_one_type(case, data):
    found = STARTED[case]
    layers = data.draw(st.lists(st.sampled_from(list(found.quantization.weights)), unique=True))
    quantization = widened(found, *layers)
    program = insert_quantizers(found.program, quantization)
    nodes = {node.name: node for node in program.graph.nodes}
    assert set(layers) <= set(widened_layers(found.program, quantization))
    for node in found.program.graph.nodes:
        if not computes_integers(node, quantization.levels) or is_call(node, FUSED_ACTIVATIONS):
            continue
        grid = quantization.activations[written(node, quantization.levels).name]
        read = [one for one in nodes[node.name].all_input_nodes if is_call(one, {DEQUANTIZE})]
        assert read
        assert {one.args[-1] for one in read} == {grid.dtype}


@given(st.sampled_from(sorted(STARTED, key=str)), st.data())
def test_what_shares_a_grid_goes_on_sharing_it(case, data):
    found = STARTED[case]
    layers = data.draw(st.lists(st.sampled_from(list(found.quantization.weights)), unique=True))
    grids = widened(found, *layers).activations
    for group in groups(found.program.graph, found.levels):
        assert len({grids[name] for name in group.values}) == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_all_layers_on_16_bits_are_nearer_to_float_than_on_8(model, placement):
    found = STARTED[model, placement]
    wide = insert_quantizers(found.program, widening(found).widen_all(found.quantization))
    expected = logits(found.program)
    errors = [float((logits(one) - expected).abs().max()) for one in (wide, found.quantized)]
    assert errors[0] < errors[1]


def test_a_grid_that_a_kernel_dictates_stays():
    found = STARTED[Gated, "full"]
    quantization = widening(found).widen_all(found.quantization)
    assert quantization.activations[named(found.program, "sigmoid").name] == UNIT_INTERVAL
    assert {grid.bits for grid in quantization.activations.values()} == {8, 16}


def test_nothing_changes_but_what_the_layer_touches():
    found = STARTED[Net, "full"]
    layer = named(found.program, "linear")
    quantization = widened(found, layer.name)
    changed = {
        name
        for name, grid in found.quantization.activations.items()
        if quantization.activations[name] != grid
    }
    assert changed == {layer.name, layer.args[0].name}
    assert quantization.narrow == {name: found.quantization.activations[name] for name in changed}
    assert quantization.weights == found.quantization.weights


def test_where_a_layer_gives_floats_only_what_it_reads_is_widened():
    found = STARTED[Tokens, "inputs"]
    layer = named(found.program, "linear")
    wide = {name for name, grid in widened(found, layer.name).activations.items() if grid.bits == 16}
    assert wide == {layer.args[0].name}


def test_a_weight_of_fewer_bits_gets_eight():
    found = started(seeded(Net), "full", "w4a4")
    layer = named(found.program, "linear").name
    weights = widened(found, layer).weights
    assert {name: weight.bits for name, weight in weights.items()} == {
        name: 8 if name == layer else 4 for name in weights
    }


def test_a_float_that_is_read_on_two_grids_is_rounded_once_for_each():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (self.left(image) + self.right(image)).mean((2, 3))

    found = started(seeded(Two), "layers")
    left = named(found.program, "conv2d")
    program = insert_quantizers(found.program, widened(found, left.name))
    image = Runner(program).nodes[Runner(program).image]
    assert [user.target for user in image.users] == [QUANTIZE, QUANTIZE]
    assert {user.args[-1] for user in image.users} == {torch.int8, torch.int16}


def test_integers_are_brought_from_one_type_to_the_other_by_a_second_pair():
    found = STARTED[Net, "full"]
    program = insert_quantizers(found.program, widened(found, named(found.program, "linear").name))
    mean = named(program, "mean")
    (stored,) = mean.users
    assert stored.args[-1] == torch.int16
    (source,) = mean.all_input_nodes
    again = source.args[0].args[0]
    assert [node.args[-1] for node in (source, again)] == [torch.int16, torch.int8]
    assert again.args[0].args[0].target is torch.ops.aten.add.Tensor


def test_layers_at_weights_alone_have_nothing_to_widen():
    found = STARTED[Net, "inputs"]
    levels = dict.fromkeys(found.levels, Level.WEIGHTS)
    quantization = Quantization(levels, {}, found.quantization.weights)
    assert widening(found).widen(quantization, list(levels)) == quantization
    assert widened_layers(found.program, quantization) == ()
