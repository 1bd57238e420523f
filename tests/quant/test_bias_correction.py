"""Corrected biases: on the images they were made of, every layer keeps its mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgevit.graph.running import Runner
from edgevit.quant.bias_correction import correct_biases
from edgevit.quant.insertion import Quantization
from edgevit.quant.operators import bias_of, channel_dim, is_layer
from tests.quant.helpers import Net, Started, Tokens, images, seeded, started


def corrected(found: Started) -> Quantization:
    return correct_biases(found.program, found.quantization, images())


def shifts(found: Started, quantization: Quantization) -> dict[str, float]:
    """How far the mean of each quantized layer's channels is off, its input being what it is in float."""
    quantized = replace(found, quantization=quantization).quantized
    plain, runner = Runner(found.program), Runner(quantized)
    result = {}
    for node in found.program.graph.nodes:
        if not (is_layer(node) and node.name in quantization.weights and bias_of(node)):
            continue
        read = node.all_input_nodes[0].name
        values = plain.run({plain.image: images()}, {read, node.name})
        given = {read: values[read], runner.image: images()}
        computed = runner.run(given, [node.name])[node.name]
        change = (computed - values[node.name]).movedim(channel_dim(node, computed.dim()), 0).flatten(1)
        result[node.name] = float(change.mean(1).abs().max())
    return result


@pytest.mark.parametrize("model", [Net, Tokens])
@pytest.mark.parametrize("precision", ["w4a4", "w4a8", "w8"])
def test_every_layer_keeps_its_mean(model, precision):
    found = started(seeded(model), "inputs", precision)
    before, after = shifts(found, found.quantization), shifts(found, corrected(found))
    assert after.keys() == before.keys() == found.quantization.weights.keys()
    # The bias itself is rounded: half a step of the accumulator is left, and that is coarse with few bits.
    left = {"w4a4": 7e-3, "w4a8": 5e-4, "w8": 1e-6}[precision]
    assert max(after.values()) < left < 0.6 * max(before.values())


def test_nothing_but_biases_changes():
    found = started(seeded(Net), "layers", "w4a4")
    result = corrected(found)
    assert replace(result, biases={}) == replace(found.quantization, biases={})


def test_images_more_than_a_batch_count_equally():
    found, many = started(seeded(Net), "layers", "w4a4"), images(40)
    shuffled = many[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    first, second = (correct_biases(found.program, found.quantization, given) for given in (many, shuffled))
    for name, bias in first.biases.items():
        torch.testing.assert_close(bias, second.biases[name])
