"""The simulation computes what ships, and gives back what it was given until something is learned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.running import Runner
from edgevit.quant.grids import ActivationGrid, round_weight, weight_scales
from edgevit.quant.insertion import decomposed, insert_quantizers
from edgevit.quant.simulation import LearnedGrid, LearnedWeight, Simulation
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

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}
numbers = st.floats(-1e3, 1e3, width=32)


@st.composite
def grids(draw: st.DrawFn) -> ActivationGrid:
    low, high = sorted((draw(numbers), draw(numbers)))
    scheme = draw(st.sampled_from(["sym", "asym"]))
    return ActivationGrid.of_range(low, high, bits=draw(st.sampled_from([2, 4, 6, 8, 16])), scheme=scheme)


@st.composite
def learned_weights(draw: st.DrawFn) -> LearnedWeight:
    bits = draw(st.sampled_from([2, 4, 8]))
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    scales = weight_scales(weight, bits=bits, axis=0) * draw(st.sampled_from([1.0, 0.5]))
    # Some lie halfway between two grid points.
    weight[:, :8] = (torch.arange(-4, 4) + 0.5) * scales[:, None]
    return LearnedWeight(weight, round_weight(weight, scales, bits=bits, axis=0))


def simulated(found: Started, simulation: Simulation) -> torch.Tensor:
    runner = simulation.runner
    with torch.no_grad():
        known = {runner.image: images()}
        return runner.run(known, runner.results, overrides=simulation.overrides)[runner.results[0]]


def same_quantization(left, right) -> None:
    assert left.activations == right.activations
    assert left.weights.keys() == right.weights.keys()
    for name, weight in left.weights.items():
        assert same_weight(weight, right.weights[name]), name


@pytest.mark.parametrize("model", PROGRAMS)
@pytest.mark.parametrize("placement", ["inputs", "layers", "full"])
@pytest.mark.parametrize("precision", ["w8a8", "w8a16", "w4a4"])
def test_at_the_start_it_is_the_quantized_program_to_the_bit(model, placement, precision):
    found = started(PROGRAMS[model], placement, precision)
    simulation = found.simulation
    same_quantization(simulation.finished(), found.quantization)
    assert torch.equal(simulated(found, simulation), logits(found.quantized))


@pytest.mark.parametrize("model", PROGRAMS)
def test_with_tokens_that_are_quantized_as_they_come_it_is_the_quantized_program(model):
    found = started(PROGRAMS[model], "dynamic")
    assert torch.equal(simulated(found, found.simulation), logits(found.quantized))


@pytest.mark.parametrize("model", PROGRAMS)
def test_with_weights_alone_it_is_the_quantized_program(model):
    found = started(PROGRAMS[model], precision="w8")
    assert torch.equal(simulated(found, found.simulation), logits(found.quantized))


@settings(max_examples=100, deadline=None)
@given(grids())
def test_a_grid_that_has_learned_nothing_is_what_it_was(grid):
    assert LearnedGrid(grid).finished() == grid


@settings(max_examples=100, deadline=None)
@given(grids(), st.lists(numbers, min_size=1))
def test_a_learned_grid_rounds_as_the_grid_does(grid, found):
    with torch.no_grad():
        assert torch.equal(LearnedGrid(grid)(torch.tensor(found)), grid.quantize(torch.tensor(found)))


@settings(max_examples=60, deadline=None)
@given(learned_weights())
def test_a_weight_that_has_learned_nothing_is_what_it_was_ties_included(learned):
    assert same_weight(learned.finished(), learned.start)


@settings(max_examples=60, deadline=None)
@given(learned_weights(), st.integers(0, 99))
def test_a_decided_weight_is_the_one_that_ships(learned, seed):
    with torch.no_grad():
        learned.logits.copy_(3 * torch.randn(3, 20, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(learned(), learned.finished().dequantize())


def test_an_undecided_weight_starts_as_the_float_one():
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    learned = LearnedWeight(
        weight, round_weight(weight, weight_scales(weight, bits=4, axis=0), bits=4, axis=0)
    )
    learned.hard = False
    # But for what the end of the grid cuts off.
    assert torch.allclose(learned().detach(), weight, atol=0.01)


@settings(max_examples=60, deadline=None)
@given(learned_weights())
def test_no_rounding_moves_further_than_to_the_other_neighbour(learned):
    with torch.no_grad():
        learned.logits.neg_()
    moved = (learned.finished().values.int() - learned.start.values.int()).abs()
    assert int(moved.max()) <= 1


def test_undecidedness_falls_from_one_to_zero_as_roundings_are_decided():
    weight = torch.full((1, 4), 0.55)
    learned = LearnedWeight(weight, round_weight(weight, torch.ones(1), bits=4, axis=0))
    learned.hard = False
    found = []
    for size in (0.0, 1.0, 10.0):
        with torch.no_grad():
            learned.logits.fill_(size)
            found.append(float(learned.undecided(2.0)))
    assert found[0] == pytest.approx(1)
    assert found[0] > found[1] > found[2] == pytest.approx(0)


def test_scales_roundings_and_biases_get_gradients():
    found = started(PROGRAMS[Net], "inputs", "w4a4")
    simulation = found.simulation
    for weight in simulation.weights.values():
        weight.hard = False
    runner = simulation.runner
    result = runner.run({runner.image: images()}, runner.results, overrides=simulation.overrides)
    result[runner.results[0]].square().sum().backward()
    for parameter in (
        *(grid.log_scale for grid in simulation.grids.values()),
        *(weight.logits for weight in simulation.weights.values()),
        *(bias.value for bias in simulation.biases.values()),
    ):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0


def test_the_gradient_of_a_scale_is_that_of_the_rounding_error():
    grid = ActivationGrid(0.5, 0, 4)
    learned = LearnedGrid(grid)
    # One inside, rounded up by 0.1 steps; one cut off at 7 steps.
    learned(torch.tensor([0.45, 100.0])).sum().backward()
    # LSQ (Esser et al. 2020, eq. 3), by the logarithm: times the scale.
    assert float(learned.log_scale.grad) == pytest.approx((0.1 + 7) * 0.5, rel=1e-4)


def test_another_grid_that_is_set_is_the_one_that_ships():
    found = started(PROGRAMS[Net])
    simulation = found.simulation
    first = next(iter(simulation.grids))
    grid = ActivationGrid.of_range(-0.7, 1.9, bits=6)
    simulation.set_grid(first, grid)
    assert simulation.finished().activations[first] == grid


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99))
def test_another_weight_that_is_set_is_the_one_that_ships_and_is_computed_with(seed):
    found = started(PROGRAMS[Net], "inputs")
    simulation = found.simulation
    layer = named(found.program, "linear").name
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    other = round_weight(weight, weight_scales(weight, bits=4, axis=0), bits=4, axis=0)
    simulation.set_weight(layer, other)
    assert same_weight(simulation.finished().weights[layer], other)
    assert torch.equal(simulation.weights[layer]().detach(), other.dequantize())


def test_what_is_set_is_in_the_program_that_is_made_of_it():
    found = started(PROGRAMS[Net], "inputs")
    simulation = found.simulation
    layer = named(found.program, "linear").name
    with torch.no_grad():
        simulation.biases[layer].value.add_(1.0)
    shipped = insert_quantizers(found.program, simulation.finished())
    assert torch.allclose(logits(shipped), logits(found.quantized) + 1, atol=1e-3)


def test_the_state_of_one_simulation_makes_another_the_same():
    found = started(PROGRAMS[Tokens], "full", "w4a4")
    first, second = found.simulation, found.simulation
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in first.state().values():
            # `state` shares memory with the parameters.
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert torch.equal(simulated(found, first), simulated(found, second))
    assert torch.equal(simulated(found, first), logits(insert_quantizers(found.program, first.finished())))
    same_quantization(first.finished(), second.finished())
    assert first.finished().activations != found.quantization.activations


def test_a_state_can_be_stored_whatever_the_layout_of_weights():
    module = seeded(Net)
    module.stem.weight.data = module.stem.weight.data.to(memory_format=torch.channels_last)
    assert all(value.is_contiguous() for value in started(module).simulation.state().values())


def test_a_group_has_one_grid_that_all_its_values_share():
    found = started(PROGRAMS[Tokens], "full")
    simulation = found.simulation
    pairs = [n for n in simulation.runner.graph.nodes if n.target is decomposed.dequantize_per_tensor.default]
    used = {id(simulation.overrides[node.name]) for node in pairs}
    assert used == {id(grid) for grid in simulation.grids.values()}
    assert len(used) < len(pairs)


def test_a_nodes_grids_are_those_it_reads_on_and_no_fixed_ones():
    found = started(PROGRAMS[Tokens], "full")
    simulation = found.simulation
    softmax = named(found.program, "softmax")
    (after,) = softmax.users
    assert simulation.grids_read_by([softmax.name]) != ()
    assert softmax.name not in simulation.grids_read_by([after.name])
    assert len(simulation.grids_read_by([after.name])) == 1


def test_a_layer_without_a_bias_has_none_to_learn():
    found = started(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 8, bias=False), nn.Flatten())))
    assert found.simulation.biases == {}
    assert len(found.simulation.weights) == 1
    assert Runner(found.program).results
