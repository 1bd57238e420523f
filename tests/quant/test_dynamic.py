"""Tokens that are quantized as they come."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgevit.quant.dynamic import is_dynamic, quantize_tokens
from edgevit.quant.sensitivity import sensitivities
from tests.quant.helpers import Tokens, images, logits, seeded, started

FLOATS = st.floats(-1000, 1000, width=32)
TOKENS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(TOKENS)
def test_a_token_is_rounded_on_a_grid_of_its_own_range(tokens):
    values = torch.tensor(tokens)
    found = quantize_tokens(values)
    # Zero is on every grid.
    step = (values.amax(-1).clamp(min=0) - values.amin(-1).clamp(max=0)) / 255
    assert ((found - values).abs().amax(-1) <= 1.001 * step + 1e-6).all()
    assert (found[values == 0] == 0).all()


@given(TOKENS, FLOATS)
def test_what_a_token_becomes_is_its_own_affair(tokens, other):
    values = torch.tensor(tokens)
    beside = torch.cat([values, torch.full_like(values[:1], other)])
    assert torch.equal(quantize_tokens(beside)[:-1], quantize_tokens(values))


def test_layers_compute_on_rounded_tokens():
    case = started(seeded(Tokens), "dynamic")
    program = case.quantized
    assert is_dynamic(program)
    assert not is_dynamic(case.program)
    model = seeded(Tokens)
    layers = {"conv2d": model.embed, "linear": model.qkv, "linear_1": model.out, "linear_2": model.head}
    for name, layer in layers.items():
        layer.weight.data = case.quantization.weights[name].dequantize()
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, given: (quantize_tokens(given[0]),))
    with torch.no_grad():
        expected = model(images())
    torch.testing.assert_close(logits(program), expected)


def test_their_rounding_counts_in_the_sensitivity():
    dynamic, weights = (
        sensitivities(case.program, case.quantization, images())
        for case in (started(seeded(Tokens), "dynamic"), started(seeded(Tokens), precision="w8"))
    )
    assert [item.layer for item in dynamic] == [item.layer for item in weights]
    assert all(
        one.divergence != other.divergence for one, other in zip(dynamic[1:], weights[1:], strict=True)
    )


def test_what_lies_before_them_learns_from_what_lies_behind():
    simulation = started(seeded(Tokens), "dynamic").simulation
    runner = simulation.runner
    for weight in simulation.weights.values():
        weight.hard = False
    known = {runner.image: images()}
    result = runner.run(known, runner.results, overrides=simulation.overrides)[runner.results[0]]
    result.square().sum().backward()
    assert all(weight.logits.grad.abs().sum() > 0 for weight in simulation.weights.values())
