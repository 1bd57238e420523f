"""Placements: which operations get which level."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.rewriting import module_path
from edgevit.quant.levels import Level, gives_integers
from edgevit.quant.operators import can_be_integer, is_layer
from edgevit.quant.placing import PLACEMENTS, default_placement, place
from edgevit.quant.precision import BIT_WIDTHS, bit_widths
from tests.quant.helpers import Net, Tokens, all_named, named, prepared, seeded

W8A8 = bit_widths("w8a8")
NET, TOKENS = prepared(seeded(Net)), prepared(seeded(Tokens))


def layers(program):
    return [node.name for node in program.graph.nodes if is_layer(node)]


def test_placement_inputs_lets_layers_multiply_integers_and_nothing_else():
    assert place(NET.graph, "inputs", W8A8) == dict.fromkeys(layers(NET), Level.INPUTS)


def test_placement_dynamic_is_for_layers_that_read_tokens():
    levels = place(TOKENS.graph, "dynamic", W8A8)
    convolution = named(TOKENS, "conv2d").name
    assert levels == dict.fromkeys(layers(TOKENS), Level.DYNAMIC) | {convolution: Level.WEIGHTS}


@pytest.mark.parametrize("precision", ["w6a6", "w8a16"])
def test_placement_dynamic_is_of_8_bits(precision):
    with pytest.raises(EdgevitError, match="--placement dynamic: tokens are quantized to 8 bits"):
        place(TOKENS.graph, "dynamic", bit_widths(precision))


def test_placement_layers_adds_only_what_moves_their_integers_or_is_absorbed():
    levels = place(NET.graph, "layers", W8A8)
    assert levels == dict.fromkeys([*layers(NET), named(NET, "relu").name], Level.INTEGER)


def test_placement_layers_moves_integers_from_layer_to_layer():
    levels = place(TOKENS.graph, "layers", W8A8)
    parts = [node.name for node in TOKENS.graph.nodes if "getitem" in str(node.target)]
    assert {levels[name] for name in parts} == {Level.INTEGER}
    assert named(TOKENS, "softmax").name not in levels
    assert named(TOKENS, "matmul").name not in levels


def test_placement_full_takes_everything_that_has_an_integer_kernel():
    levels = place(TOKENS.graph, "full", W8A8)
    assert levels.keys() == {node.name for node in TOKENS.graph.nodes if can_be_integer(node)}
    assert set(levels.values()) == {Level.INTEGER}


def test_weights_alone_touch_nothing_but_layers():
    assert place(NET.graph, "inputs", bit_widths("w8")) == dict.fromkeys(layers(NET), Level.WEIGHTS)


def test_an_activation_behind_a_layer_is_computed_inside_it_in_placement_layers():
    levels = place(NET.graph, "layers", W8A8)
    assert not gives_integers(named(NET, "conv2d"), levels)
    assert gives_integers(named(NET, "relu"), levels)


def test_an_activation_behind_an_excluded_layer_stays_float():
    levels = place(NET.graph, "layers", W8A8, ["stem"])
    assert named(NET, "relu").name not in levels


@pytest.mark.parametrize("pattern", ["mix", "m?x", "conv2d_1", "*_1"])
def test_a_pattern_excludes_layers_by_node_name_or_module_path(pattern):
    kept = set(layers(NET)) - place(NET.graph, "inputs", W8A8, [pattern]).keys()
    assert kept == {all_named(NET, "conv2d")[1].name}


def test_patterns_add_up():
    assert place(NET.graph, "inputs", W8A8, ["mix", "stem", "head"]) == {}


def test_a_pattern_fits_whole_paths_of_nested_modules():
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1), nn.GELU()) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x).mean((2, 3))

    program = prepared(Nested())
    assert [module_path(node) for node in all_named(program, "conv2d")] == [
        f"blocks.{index}.0" for index in range(3)
    ]
    assert len(place(program.graph, "inputs", W8A8, ["blocks.1.*"])) == 2
    assert place(program.graph, "inputs", W8A8, ["blocks*"]) == {}


def test_a_pattern_that_fits_no_layer_is_refused_with_the_closest():
    with pytest.raises(EdgevitError, match='--exclude haed: it fits none of the 3 layers; .*"head"'):
        place(NET.graph, "inputs", W8A8, ["stem", "haed"])


def test_an_unknown_placement_is_refused_with_the_closest():
    with pytest.raises(EdgevitError, match="--placement: 'input' is unknown; did you mean \"inputs\""):
        place(NET.graph, "input", W8A8)


def test_unknown_bits_are_refused_with_the_closest():
    with pytest.raises(EdgevitError, match="--quantize: 'w8a9' is unknown; did you mean \"w8a8\""):
        bit_widths("w8a9")


@pytest.mark.parametrize("name", [name for name, bits in BIT_WIDTHS.items() if bits.activations])
def test_layers_give_integers_by_default_only_where_runtimes_have_kernels_that_do(name):
    bits = bit_widths(name)
    placement = default_placement(bits)
    assert placement in PLACEMENTS
    assert (PLACEMENTS[placement][0] == Level.INTEGER) == (bits.activations in (8, 16))
