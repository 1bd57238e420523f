"""What the choices of a nested Program cost in time, measured in its runtime."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from torch import nn

from edgevit import measured_budgets
from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.profiling.quantized import with_levels
from edgevit.profiling.submodels import LatencyTable, Stopwatch, Taken, alike, measure_choices
from edgevit.quant.operators import is_layer
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from edgevit.submodels.costing import Counted
from edgevit.submodels.elastic import elastic
from edgevit.submodels.places import InFloat, Place, places_of
from edgevit.submodels.precision import levels_left
from edgevit.submodels.search import Search
from tests.pruning.helpers import program_of


class Net(nn.Module):
    """Residual MLPs, of which the first two are alike, wide enough for their time to be seen."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 48, 2, 2)
        self.first = nn.ModuleList(nn.Linear(48, width) for width in widths)
        self.second = nn.ModuleList(nn.Linear(width, 48) for width in widths)
        self.head = nn.Linear(48, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        for first, second in zip(self.first, self.second, strict=True):
            tokens = tokens + second(first(tokens).relu())
        return self.head(tokens.mean(1))


@functools.cache
def images() -> torch.Tensor:
    return torch.randn(32, 3, 32, 32, generator=torch.manual_seed(0))


@functools.cache
def nested(*widths: int) -> Program:
    torch.manual_seed(0)
    program = program_of(Net(*widths), (3, 32, 32))
    return elastic(program, images().numpy(), shares=(0.25,), replacements=("skip",)).program


def test_places_that_cost_the_same_are_measured_together():
    parent = nested(512, 512, 64)
    groups = alike(places_of(parent), [Counted(parent, "macs"), Counted(parent, "parameters")])
    assert [[place.axis for place in group] for group in groups] == [
        ["first.0:hidden", "first.1:hidden"],
        ["first.2:hidden"],
    ]


def test_every_choice_is_measured_and_places_that_are_alike_share_what_they_save():
    parent = nested(64, 64)
    table = measure_choices(parent, "onnx", Stopwatch())
    first, second = places_of(parent)
    assert table.saved.keys() == {
        (place, option) for place in (first, second) for option in place.options[:-1]
    }
    assert table.saved[first, "skip"] == table.saved[second, "skip"]
    assert table({}) == round(table.whole_ms * 1e6) > 0


def test_what_choices_save_adds_up_and_can_be_searched_with():
    parent = nested(512, 512)
    first, second = places_of(parent)
    saved = {(place, "skip"): 0.4 for place in (first, second)}
    saved |= {(place, width): 0.1 for place in (first, second) for width in (128, 256)}
    table = LatencyTable("onnx", Stopwatch(), 2.0, saved)
    assert table({}) == 2_000_000
    assert table({first.branch: "skip", second.axis: 128}) == 1_000_000
    search = Search(parent, images().numpy(), cost=table)
    assert search.cost(search.solve(1_200_000)[0]) <= 1_200_000
    with pytest.raises(EdgevitError, match="--latency-budget 0.001ms: cannot be met: the choices"):
        measured_budgets._check_possible(search, "latency", 1000)
    measured_budgets._check_possible(search, "latency", 2_000_000)


class Scales:
    """A clock that weighs artefacts."""

    device = "scales"

    def check(self, to: str) -> None:
        pass

    def relative(self, path: Path, plain: Path) -> float:
        return path.stat().st_size / plain.stat().st_size

    def alone(self, path: Path) -> Taken:
        return Taken(path.stat().st_size / 1e6)


def test_each_choice_is_timed_in_integers_and_with_its_layers_left_float():
    parent, floats, bits = nested(64, 64), [], bit_widths("w8")
    levels = place(parent.graph, "layers", bits)

    def made(program: Program, kept_float: Collection[str]) -> Program:
        floats.append(tuple(kept_float))
        return with_levels(program, levels_left(program, levels, kept_float), bits)

    layers = [node.name for node in parent.graph.nodes if is_layer(node)]
    table = measure_choices(parent, "onnx", Scales(), made=made, layers=layers)
    first, second, *others = places_of(parent, layers)
    # The embedding and the head are alike to nothing.
    assert [one.layers for one in others] == [(layers[0],), (layers[-1],)]
    assert table.saved.keys() == {
        (one, option) for one in (first, second, *others) for option in one.options if option != one.whole
    }
    assert table.saved[first, InFloat(16)] == table.saved[second, InFloat(16)]
    assert table.saved[first, InFloat(64)] < 0 < table.saved[first, 16] < table.saved[first, "skip"]
    assert table.saved[first, InFloat(16)] < table.saved[first, 16]
    assert set(floats) == {(), (*first.layers, *second.layers), *(one.layers for one in others)}
    saved = {(first, 16): 0.25, (first, InFloat(16)): 0.125, (first, InFloat(64)): -0.5}
    table = LatencyTable("onnx", Stopwatch(), 1.0, saved)
    assert table({first.axis: 16}) == 750_000
    assert table({first.axis: 16}, first.layers) == 875_000
    assert table({}, (*first.layers, *second.layers)) == 1_500_000


def test_a_sum_that_saves_more_than_there_is():
    saved = {(Place(None, name, ("skip", None)), "skip"): 0.7 for name in ("a", "b")}
    assert LatencyTable("onnx", Stopwatch(), 1.0, saved)({"a": "skip", "b": "skip"}) == 0


def test_a_format_that_cannot_be_timed():
    with pytest.raises(EdgevitError, match="--to: 'coreml' cannot be timed on this machine"):
        measure_choices(nested(512, 512), "coreml", Stopwatch())
