"""Where the layers of a submodel are integers: one choice with its widths."""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.axes import stored_tensors
from edgevit.graph.card import Preprocessing
from edgevit.graph.predictions import divergence, predict
from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.measured_budgets import search_file
from edgevit.quant.enclosing import with_enclosed
from edgevit.quant.insertion import insert_quantizers
from edgevit.quant.levels import Level, Levels, groups
from edgevit.quant.observation import observe
from edgevit.quant.operators import is_layer
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from edgevit.quant.ranges import start
from edgevit.recipe import QuantizeRecipe
from edgevit.submodels.costing import Bytes
from edgevit.submodels.elastic import elastic
from edgevit.submodels.extraction import extract
from edgevit.submodels.places import InFloat, places_of
from edgevit.submodels.precision import Quantizer, levels_left
from edgevit.submodels.search import Search, frontier, within
from tests.pruning.helpers import program_of
from tests.submodels.helpers import logits

# What no image has: its weights can be of any size, and nobody sees it but their neighbours on the grid.
_BLANK = 2


class Net(nn.Module):
    """Two residual MLPs; of the patches' embedding those weights are huge that read what no image has."""

    def __init__(self, *, outlier: float = 0.0, silu: bool = False) -> None:
        super().__init__()
        self.act = nn.SiLU() if silu else nn.ReLU()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.ModuleList(nn.Linear(16, 32) for _ in range(2))
        self.second = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            self.embed.weight[:, _BLANK] = outlier

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        for first, second in zip(self.first, self.second, strict=True):
            tokens = tokens + 4 * second(self.act(first(tokens)))
        return self.head(tokens.mean(1))


@functools.cache
def images() -> torch.Tensor:
    found = torch.rand(48, 3, 8, 8, generator=torch.manual_seed(0))
    found[:, _BLANK] = 0.0
    return found


@functools.cache
def nested(outlier: float = 0.0, *, silu: bool = False) -> Program:
    torch.manual_seed(0)
    program = program_of(Net(outlier=outlier, silu=silu), (3, 8, 8))
    plain = Preprocessing(input_size=(8, 8), resize_to=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    program = Program(program.exported, program.card.model_copy(update={"preprocessing": plain}))
    return elastic(program, images().numpy(), shares=(0.25, 0.5), replacements=("skip", "linear")).program


def levels_of(parent: Program, *, precision: str = "w8", placement: str = "layers") -> Levels:
    return place(parent.graph, placement, bit_widths(precision))


def quantizer(parent: Program, **options: str) -> Quantizer:
    bits = bit_widths(options.get("precision", "w8"))
    return Quantizer(parent, levels_of(parent, **options), bits, images())


def search(parent: Program, **options: str) -> Search:
    found, levels = quantizer(parent, **options), levels_of(parent, **options)
    return Search(parent, images().numpy(), cost=Bytes(parent, levels), quantizer=found)


def layers_of(program: Program) -> list[str]:
    """Those whose weight is stored as floats."""
    return [node.name for node in program.graph.nodes if is_layer(node)]


def test_each_layer_belongs_to_one_place():
    embed, *inner, head = layers = layers_of(nested())
    places = places_of(nested(), layers)
    assert [place.layers for place in places] == [tuple(inner[:2]), tuple(inner[2:]), (embed,), (head,)]
    assert places[0].options == (InFloat(8), InFloat(16), InFloat(32), "skip", "linear", 8, 16, 32)
    assert places[2].options == (InFloat(None), None)
    assert [place.layers for place in places_of(nested(), inner[:1])] == [(inner[0],), ()]


def test_what_a_submodel_has_chosen_is_found_again():
    for one in places_of(nested(), layers_of(nested())):
        for option in one.options:
            assert one.option_in(one.named(option), one.kept_float(option)) == option


@functools.cache
def judged() -> tuple[Search, list[tuple[int, float]]]:
    """A search, and the cost and the sum of sensitivities of every submodel that it can choose."""
    found = search(nested())
    options = [
        list(zip(place.options, choices, strict=True))
        for place, choices in zip(found.places, found._choices, strict=True)
    ]
    return found, [
        (found.cost(tuple(option for option, _ in chosen)), math.fsum(choice.loss for _, choice in chosen))
        for chosen in itertools.product(*options)
    ]


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1))
def test_no_widths_and_bits_have_a_smaller_sum_of_sensitivities(share):
    found, everything = judged()
    least, most = found.cost(found.cheapest), found.cost(found.whole_in_float)
    budget = round(least + share * (most - least))
    key = found.solve(budget, count=1)[0]
    losses = [
        choices[place.options.index(option)].loss
        for place, choices, option in zip(found.places, found._choices, key, strict=True)
    ]
    assert found.cost(key) <= budget
    assert sum(losses) == pytest.approx(min(loss for cost, loss in everything if cost <= budget))


@pytest.mark.parametrize(
    ("precision", "placement"), [("w8", "layers"), ("w8a8", "dynamic"), ("w8a8", "inputs"), ("w8a8", "full")]
)
def test_bytes_are_those_of_what_is_written(precision, placement):
    parent = nested()
    found = search(parent, precision=precision, placement=placement)
    some = (16, InFloat(8), None, InFloat(None))
    for key in [found.whole, found.whole_in_float, some, ("linear", "skip", None, None)]:
        made = found.quantizer(extract(parent, found.named(key)), found.kept_float(key))
        stored = [value for _, _, value in stored_tensors(made)]
        assert found.cost(key) == sum(value.numel() * value.element_size() for value in stored)


def test_a_layer_that_integers_ruin_is_left_float_where_the_budget_allows_it():
    found = search(nested(1000.0))
    embed = layers_of(nested())[0]
    whole = found.cost(found.whole)
    room = found.cost_of({}, [embed])
    best = next(one for one in within(found, room, evaluations=4) if one.name == "search")
    assert (best.kept_float, best.cost) == ((embed,), room)
    assert all(width == 32 for width in best.widths.values())
    # Without room for it an MLP makes some.
    best = next(one for one in within(found, whole, evaluations=4) if one.name == "search")
    assert embed in best.kept_float
    assert found.cost(found.solve(whole)[0]) <= whole
    # Simpler ways know of integers alone.
    assert all(not one.kept_float for one in frontier(found, steps=3) if one.name != "sensitivities")


def test_the_same_seed_finds_the_same_floats():
    budget = search(nested()).cost(search(nested()).whole)
    first, second = (within(search(nested()), budget, evaluations=10) for _ in range(2))
    assert first == second
    assert all(one.cost <= budget for one in first)


@pytest.mark.parametrize("placement", ["inputs", "layers", "full"])
def test_a_submodel_is_judged_on_the_ranges_of_its_parent(placement):
    parent, bits = nested(), bit_widths("w8a8")
    levels = levels_of(parent, precision="w8a8", placement=placement)
    names = [name for group in groups(parent.graph, levels) for name in group.values]
    observed = observe(parent, images(), names)
    expected = insert_quantizers(parent, start(parent, levels, observed, bits))
    made = quantizer(parent, precision="w8a8", placement=placement)
    assert torch.equal(logits(made(parent), images()), logits(expected, images()))
    small = extract(parent, {"first.0:hidden": 16})
    whole = logits(small, images())
    floats = ((), made.layers[:3], made.layers)
    loss = [float(divergence(whole, logits(made(small, names), images()))) for names in floats]
    assert loss == sorted(loss, reverse=True)
    assert loss[0] < 1e-2


@pytest.mark.parametrize("stand", ["skip", "linear"])
def test_what_stands_in_for_a_branch_is_looked_at_itself(stand):
    parent = nested()
    small = extract(parent, {places_of(parent)[0].branch: stand})
    made = quantizer(parent, precision="w8a8", placement="full")
    found = predict(Runner(made(small)), images())
    assert float(divergence(predict(Runner(small), images()), found)) < 1e-2


def test_a_silu_in_integers_is_on_the_grid_of_its_parents():
    parent, bits = nested(silu=True), bit_widths("w8a8")
    levels = with_enclosed(parent.graph, dict.fromkeys(layers_of(parent), Level.INTEGER))
    silus = [node.name for node in parent.graph.nodes if "silu" in str(node.target)]
    assert set(silus) <= levels.keys()
    made = Quantizer(parent, levels, bits, images())
    # The second branch is all that is left.
    small = extract(parent, {places_of(parent)[0].branch: "skip"})
    grids = []
    for program in (made(parent), made(small)):
        (pair,) = next(node for node in program.exported.graph.nodes if node.name == silus[1]).users
        grids.append(pair.args[1:])
    assert grids[0] == grids[1]


def test_a_layer_that_is_left_float_takes_with_it_what_only_moves_its_integers():
    parent = nested()
    levels = levels_of(parent, precision="w8a8")
    embed = layers_of(parent)[0]
    left = levels_left(parent, levels, [embed])
    gone = levels.keys() - left.keys()
    assert embed in gone
    assert len(gone) > 1
    assert all(levels[name] == Level.INTEGER for name in gone)


def test_what_is_written_has_the_layer_in_floats(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = (images().permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    for number, image in enumerate(pixels):
        assert cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    parent = nested(1000.0)
    embed = layers_of(parent)[0]
    budget = Bytes(parent, levels_of(parent))({}, [embed])
    out: Path = tmp_path / "out" / "small.pt2"
    recipe = QuantizeRecipe(precision="w8", method="minmax")
    result = search_file(
        parent, budget, of="bytes", calib=folder, output=out, recipe=recipe, images=48, evaluations=4
    )
    best = next(one for one in result.candidates if one.name == "search")
    assert best.kept_float == (embed,)
    written = Program.load(out)
    assert layers_of(written) == [embed]
    assert result.bytes == pytest.approx(budget)
    assert result.divergence < 1e-3
    said = json.loads(result.report.read_text())
    assert said["version"] == 3
    assert next(one for one in said["candidates"] if one["name"] == "search")["kept_float"] == [embed]
