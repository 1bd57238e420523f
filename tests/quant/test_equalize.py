"""Equalized outputs: the float model is the same, its channels have one range."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.equalize import can_equalize, equalize_outputs, stretch
from edgevit.quant.grids import round_weight
from edgevit.quant.observation import observe
from edgevit.quant.operators import is_layer, weight_of
from tests.quant.helpers import Folded, Net, Tokens, all_named, images, logits, named, prepared, seeded


class ChannelsLast(nn.Module):
    """A linear layer on a feature map, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.linear(x.permute(0, 2, 3, 1)).mean((1, 2)))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 8, 3, padding=1), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x.flatten(2)).mean(1))


PROGRAMS = {m: prepared(seeded(m)) for m in (Net, Tokens, Folded, ChannelsLast, OneDimensional)}


def equalizable(program: Program) -> list[str]:
    return [node.name for node in program.graph.nodes if can_equalize(node)]


def equalized(program: Program, layers: list[str]) -> Program:
    observed = observe(program, images(), layers)
    return equalize_outputs(program, layers, {name: observed[name].peaks for name in layers})


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.data())
def test_the_float_model_computes_the_same(model, data):
    program = PROGRAMS[model]
    layers = data.draw(st.lists(st.sampled_from(equalizable(program)), min_size=1, unique=True))
    expected = logits(program)
    found = logits(equalized(program, layers))
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.integers(0, 99))
def test_any_peaks_leave_the_float_model_as_it_was(model, seed):
    program = PROGRAMS[model]
    name = equalizable(program)[0]
    channels = len(Runner(program).constants[weight_of(Runner(program).nodes[name]).name])
    peaks = 10 ** (4 * torch.rand(channels, generator=torch.Generator().manual_seed(seed)) - 2)
    expected = logits(program)
    found = logits(equalize_outputs(program, [name], {name: peaks}))
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=20))
def test_a_channel_is_stretched_within_bounds_and_no_further_than_the_largest(peaks):
    found = stretch(torch.tensor(peaks))
    assert bool((found > 0).all() and (found <= 1).all())
    assert bool((torch.tensor(peaks) / found <= max(peaks) * (1 + 1e-6)).all())


def test_channels_have_nearly_one_range_afterwards():
    module = seeded(ChannelsLast)
    with torch.no_grad():
        module.linear.weight.mul_(torch.logspace(0, -2, 8)[:, None])
        module.linear.bias.mul_(torch.logspace(0, -2, 8))
    program = prepared(module)
    layer = named(program, "linear").name
    found = equalized(program, [layer])
    before, after = (observe(p, images(), [layer])[layer].peaks for p in (program, found))
    assert float(before.max() / before.min()) > 10
    assert float(after.max() / after.min()) < 1.3


def test_dead_channels_and_dead_layers_stay_finite():
    module = seeded(Net)
    with torch.no_grad():
        module.stem.weight[0], module.stem.bias[0] = 0, 0
        module.mix.weight.zero_()
        module.mix.bias.zero_()
    program = prepared(module)
    found = equalized(program, equalizable(program))
    assert torch.allclose(logits(found), logits(program), atol=1e-6)


def test_a_weights_integers_stay_what_they_were():
    program = PROGRAMS[Net]
    layer = all_named(program, "conv2d")[1]
    found = equalized(program, [layer.name])

    def integers(source: Program) -> torch.Tensor:
        runner = Runner(source)
        weight = runner.constants[weight_of(runner.nodes[layer.name]).name]
        # Not float16 scales, which would round the two differently.
        return round_weight(weight, weight.flatten(1).abs().amax(1) / 127, bits=8, axis=0).values

    difference = integers(program).int() - integers(found).int()
    assert int(difference.abs().max()) <= 1
    assert float((difference != 0).float().mean()) < 0.05


def test_a_layer_that_another_place_uses_too_is_equalized_in_one_alone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x).relu()).mean((2, 3))

    program = prepared(seeded(Twice))
    first = named(program, "conv2d").name
    found = equalize_outputs(program, [first], {first: torch.tensor([1.0, 0.1, 0.5])})
    assert torch.allclose(logits(found), logits(program), atol=1e-6)


def test_a_layer_without_a_bias_and_the_classifier_are_left_alone():
    program = prepared(
        seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 8, bias=False), nn.Flatten(), nn.Linear(4, 4)))
    )
    assert len([node for node in program.graph.nodes if is_layer(node)]) == 2
    assert equalizable(program) == []
