"""Q-HyViT's search keeps or lowers the weighted error of every place it visits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from edgevit.graph.running import Runner
from edgevit.quant.blocks import Block, find_blocks
from edgevit.quant.grids import UNIT_INTERVAL
from edgevit.quant.insertion import insert_quantizers
from edgevit.quant.precision import bit_widths
from edgevit.quant.search import Search, SearchOptions
from tests.quant.helpers import (
    Folded,
    Net,
    Started,
    Tokens,
    images,
    logits,
    named,
    prepared,
    same_weight,
    seeded,
    started,
)


class ChannelsLast(nn.Module):
    """A linear layer on a feature map, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.linear(x.permute(0, 2, 3, 1)).mean((1, 2)))


MODELS = (Net, Tokens, Folded, ChannelsLast)
PROGRAMS = {model: prepared(seeded(model)) for model in MODELS}
QUICK = SearchOptions(candidates=15, rounds=2, images=8)


def search_of(
    found: Started, precision: str, options: SearchOptions = QUICK, blocks: list[Block] | None = None
) -> Search:
    return Search(
        found.program,
        found.quantization,
        observed=found.observed,
        blocks=find_blocks(found.program) if blocks is None else blocks,
        images=images(),
        bits=bit_widths(precision),
        options=options,
    )


def bridges(program) -> list[Block]:
    """All of the network as one bridge block."""
    runner = Runner(program)
    nodes = tuple(name for name, node in runner.nodes.items() if node.op == "call_function")
    return [Block("bridge", "all", nodes, (runner.image,), (runner.results[0],))]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("placement", [pytest.param("inputs", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("model", MODELS)
def test_every_step_lowers_or_keeps_the_weighted_error_at_its_place(monkeypatch, model, placement, whole):
    program = PROGRAMS[model]
    search = search_of(
        started(program, placement, "w4a4"), "w4a4", blocks=bridges(program) if whole else None
    )
    errors: list[tuple[float, float]] = []

    def watched(step):
        def run(place, *rest):
            before = float(search._errors(place).sum())
            step(place, *rest)
            errors.append((before, float(search._errors(place).sum())))

        return run

    for step in ("_search_weight", "_search_grid"):
        monkeypatch.setattr(search, step, watched(getattr(search, step)))
    search.run()
    assert all(after <= before * (1 + 1e-5) for before, after in errors)
    assert sum(after < before for before, after in errors) >= len(search.places)


def test_what_is_found_is_nearer_to_the_float_network():
    found = started(PROGRAMS[Tokens], "inputs", "w4a4")
    searched = insert_quantizers(found.program, search_of(found, "w4a4").run())
    expected = logits(found.program)
    errors = [float((logits(each) - expected).square().mean()) for each in (searched, found.quantized)]
    assert errors[0] < errors[1]


def test_the_same_search_finds_the_same():
    found = started(PROGRAMS[Net], "layers", "w4a8")
    first, second = (search_of(found, "w4a8").run() for _ in range(2))
    assert first.activations == second.activations
    assert all(same_weight(weight, second.weights[name]) for name, weight in first.weights.items())


def test_layers_in_a_bridge_block_are_judged_by_its_outputs_and_others_by_their_own():
    program = PROGRAMS[Net]
    stem = named(program, "conv2d").name
    block = Block("bridge", "b", (stem, named(program, "relu").name), ("x",), (named(program, "relu").name,))
    search = search_of(started(program), "w8a8", blocks=[block])
    outputs = {place.node.name: place.outputs for place in search.places}
    assert outputs.pop(stem) == (named(program, "relu").name,)
    assert outputs == {name: (name,) for name in outputs}


def test_a_grid_that_a_kernel_dictates_is_kept():
    found = started(PROGRAMS[Tokens], "full", "w8a8")
    softmax = named(found.program, "softmax").name
    assert search_of(found, "w8a8").run().activations[softmax] == UNIT_INTERVAL


def test_only_the_granularity_and_scheme_that_are_asked_for_are_tried():
    found = started(PROGRAMS[Net], "inputs", "w4a4", granularity="tensor", scheme="sym")
    options = SearchOptions(per_channel=(False,), schemes=("sym",), candidates=15, rounds=1, images=8)
    quantization = search_of(found, "w4a4", options).run()
    assert all(len(weight.scales.unique()) == 1 for weight in quantization.weights.values())
    for grid in quantization.activations.values():
        assert grid.zero_point in (0, grid.quant_min)


def test_weights_alone_leave_activations_without_a_grid():
    found = started(PROGRAMS[Net], precision="w8")
    quantization = search_of(found, "w8").run()
    assert quantization.activations == {}
    assert quantization.weights.keys() == found.quantization.weights.keys()


def test_candidates_go_evenly_from_the_lowest_share_to_the_highest():
    shares = SearchOptions().shares()
    assert len(shares) == 100
    assert (shares[0], shares[-1]) == pytest.approx((0.01, 1.2))
    steps = [b - a for a, b in itertools.pairwise(shares)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_a_network_with_dead_channels_is_searched_without_nan():
    module = seeded(Net)
    with torch.no_grad():
        module.stem.weight[:4] = 0
        module.stem.bias[:4] = 0
        module.mix.weight.zero_()
    found = started(module, "full", "w4a4")
    quantization = search_of(found, "w4a4").run()
    assert all(bool(torch.isfinite(w.scales).all()) for w in quantization.weights.values())
    assert all(math.isfinite(grid.scale) for grid in quantization.activations.values())
