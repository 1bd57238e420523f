"""What each layer's quantization alone does, and which layers stand out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.predictions import divergence
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import groups
from edgevit.quant.sensitivity import changed, sensitivities
from tests.quant.helpers import Net, Tokens, images, logits, prepared, seeded, started

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens)}


@pytest.mark.parametrize("model", PROGRAMS)
@pytest.mark.parametrize("precision", ["w8a8", "w4a4", "w8"])
def test_every_quantized_layer_is_measured_in_order(model, precision):
    found = started(PROGRAMS[model], "inputs", precision)
    measured = sensitivities(found.program, found.quantization, images())
    assert [item.layer for item in measured] == list(found.quantization.weights)
    assert all(item.divergence >= 0 and 0 <= item.changed <= 100 for item in measured)


def test_modules_are_named():
    found = started(PROGRAMS[Net])
    names = [item.module for item in sensitivities(found.program, found.quantization, images())]
    assert names == ["stem", "mix", "head"]


@pytest.mark.parametrize("placement", ["inputs", "full"])
def test_a_layers_sensitivity_is_that_of_a_program_with_that_layer_alone_quantized(placement):
    found = started(PROGRAMS[Net], placement, "w4a4")
    program, whole = found.program, found.quantization
    reference = logits(program)
    for item in sensitivities(program, whole, images()):
        levels = {item.layer: found.levels[item.layer]}
        needed = [name for group in groups(program.graph, levels) for name in group.values]
        # Behind a layer that absorbs its activation nothing is rounded.
        grids = {name: whole.activations[name] for name in needed if name in whole.activations}
        alone = Quantization(levels, grids, {item.layer: whole.weights[item.layer]})
        quantized = logits(insert_quantizers(program, alone))
        assert item.divergence == pytest.approx(float(divergence(reference, quantized)), rel=1e-4, abs=1e-8)
        assert item.changed == pytest.approx(changed(reference, quantized))


def test_many_images_are_measured_a_batch_at_a_time():
    found = started(PROGRAMS[Net], "layers", "w4a4")
    many = images(40)
    whole = sensitivities(found.program, found.quantization, many)
    first, second = (
        sensitivities(found.program, found.quantization, part) for part in (many[:32], many[32:])
    )
    for item, one, other in zip(whole, first, second, strict=True):
        assert item.divergence == pytest.approx(0.8 * one.divergence + 0.2 * other.divergence)
        assert item.changed == pytest.approx(0.8 * one.changed + 0.2 * other.changed)


def test_fewer_bits_hurt_more():
    eight, four = (
        sum(item.divergence for item in sensitivities(found.program, found.quantization, images()))
        for found in (started(PROGRAMS[Tokens], "inputs", precision) for precision in ("w8a8", "w4a4"))
    )
    assert four > 10 * eight


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0, 5))
def test_a_divergence_is_zero_for_the_same_and_negative_by_no_more_than_rounding(seed, noise):
    first = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    other = first + noise * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed + 100))
    assert divergence(first, first) == pytest.approx(0, abs=1e-6)
    assert divergence(first, other) >= -1e-6


def test_changed_is_the_percent_of_rows_with_another_best_class():
    first = torch.eye(4)
    second = first.clone()
    second[0] = torch.tensor([0.0, 0.0, 0.0, 9.0])
    assert (changed(first, first), changed(first, second)) == (0.0, 25.0)
