"""What a layer reads, times its weight, is what it gives; and moments are those of all rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.running import Runner
from edgevit.pruning import moments
from edgevit.pruning.moments import Moments, outputs_made, rows_read
from tests.quant.helpers import images, named
from tests.rewrites.helpers import program_of

LAYERS = {
    "plain": (lambda: nn.Conv2d(3, 5, 3), "conv2d"),
    "stride and padding": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1), "conv2d"),
    "dilation": (lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2), "conv2d"),
    "unequal": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), "conv2d"),
    "without a bias": (lambda: nn.Conv2d(3, 5, 2, 2, bias=False), "conv2d"),
    "one pixel": (lambda: nn.Conv2d(3, 5, 1), "conv2d"),
    "patches": (lambda: nn.Conv2d(3, 5, 4, stride=4), "conv2d"),
    "sequence": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 5, stride=3, padding=2, dilation=2)),
        "conv1d",
    ),
    "linear": (lambda: nn.Linear(8, 5), "linear"),
    "linear over tokens": (lambda: nn.Sequential(nn.Flatten(1), nn.Linear(192, 5)), "linear"),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_rows_times_the_weight_are_the_outputs(name):
    module, operator = LAYERS[name]
    torch.manual_seed(0)
    program = program_of(module(), (3, 8, 8))
    layer, runner = named(program, operator), Runner(program)
    source, weight, *rest = layer.all_input_nodes
    with torch.no_grad():
        read, made = runner.run({runner.image: images(4)}, [source.name, layer.name]).values()
    expected = rows_read(layer, read) @ runner.constants[weight.name].flatten(1).T
    if rest:
        expected = expected + runner.constants[rest[0].name]
    torch.testing.assert_close(outputs_made(layer, made), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["stride and padding", "linear"])
def test_of_many_rows_the_same_are_taken_on_both_sides(name, monkeypatch):
    module, operator = LAYERS[name]
    program = program_of(module(), (3, 8, 8))
    layer, runner = named(program, operator), Runner(program)
    source, weight, bias = layer.all_input_nodes
    with torch.no_grad():
        read, made = runner.run({runner.image: images(4)}, [source.name, layer.name]).values()
    every = outputs_made(layer, made)
    monkeypatch.setattr(moments, "_ROWS", 33)
    few = outputs_made(layer, made)
    assert 17 <= len(few) <= 33
    torch.testing.assert_close(few, every[:: len(every) // len(few) + (len(every) % len(few) > 0)])
    constants = runner.constants
    expected = rows_read(layer, read) @ constants[weight.name].flatten(1).T + constants[bias.name]
    torch.testing.assert_close(few, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 1e4]),
    st.integers(0, 99),
)
def test_the_covariance_is_that_of_all_rows_at_once(counts, columns, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(count, columns, generator=generator) + offset for count in counts]
    found = Moments(columns)
    for part in parts:
        found.add(part)
    rows = torch.cat(parts).double()
    expected = torch.cov(rows.T, correction=0).reshape(columns, columns)
    assert found.count == len(rows)
    torch.testing.assert_close(found.covariance, expected, rtol=1e-4, atol=1e-4)


def test_columns_that_hardly_vary_about_a_large_mean_keep_their_covariance():
    rows = 300 + 0.01 * torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    found = Moments(3)
    for part in rows.split(1000):
        found.add(part)
    expected = torch.cov(rows.double().T, correction=0)
    torch.testing.assert_close(found.covariance, expected, rtol=1e-2, atol=1e-7)
