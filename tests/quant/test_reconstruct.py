"""Reconstruction makes no block worse, repeats itself, and can go on where it stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.predictions import divergence
from edgevit.graph.running import Runner
from edgevit.quant import reconstruct
from edgevit.quant.blocks import find_blocks
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.learning import Learnable, LearningOptions
from edgevit.quant.levels import groups
from edgevit.quant.reconstruct import Reconstruction, importance, learnables
from edgevit.quant.simulation import Simulation
from tests.quant import layers
from tests.quant.helpers import Folded, Net, Started, Tokens, images, logits, named, prepared, seeded, started
from tests.quant.test_simulation import same_quantization

QUICK = LearningOptions(worth=0.0, iterations=8, batch=8, global_images=4)


class TwoLayers(torch.nn.Sequential):
    """Two transformer layers on one residual stream, which is one group of values in placement full."""

    def __init__(self) -> None:
        super().__init__(
            layers.patches(), layers.ToTokens(), layers.Layer(), layers.Layer(), layers.Classify()
        )


PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded, TwoLayers)}


def reconstruction(found: Started, simulation: Simulation, options=QUICK) -> Reconstruction:
    return Reconstruction(found.program, simulation, find_blocks(found.program), images(), options)


def state_of(simulation: Simulation) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in simulation.state().items()}


def assert_same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("model", PROGRAMS)
@pytest.mark.parametrize(
    ("placement", "precision"), [("inputs", "w4a4"), ("full", "w8a8"), ("layers", "w4a8")]
)
def test_no_block_is_made_worse_and_each_is_reported_in_order(model, placement, precision):
    found = started(PROGRAMS[model], placement, precision)
    results = list(reconstruction(found, found.simulation).run())
    assert [result.block for result in results] == [block.name for block in find_blocks(found.program)]
    for result in results:
        assert 0 <= result.after <= result.before
        assert (result.outcome == "learned") == (result.after < result.before)
        assert math.isfinite(result.before)


def test_a_block_that_does_no_damage_learns_nothing():
    found = started(PROGRAMS[TwoLayers], "inputs", "w4a4")
    simulation = found.simulation
    start = state_of(simulation)
    results = list(reconstruction(found, simulation, replace(QUICK, worth=math.inf)).run())
    assert_same_state(state_of(simulation), start)
    assert all(result.after == result.before for result in results)
    assert {result.outcome for result in results} <= {"harmless", "nothing to learn"}
    assert sum(result.damage for result in results) > 0


def test_the_damage_of_a_block_is_that_of_quantizing_it_alone():
    found = started(PROGRAMS[TwoLayers], "inputs", "w4a4")
    simulation, blocks = found.simulation, find_blocks(found.program)
    results = list(reconstruction(found, simulation, replace(QUICK, worth=math.inf)).run())
    for block, result in zip(blocks, results, strict=True):
        levels = {name: level for name, level in found.levels.items() if name in block.nodes}
        alone = Quantization(
            levels,
            found.quantization.activations,
            {name: w for name, w in found.quantization.weights.items() if name in levels},
        )
        expected = float(divergence(logits(found.program), logits(insert_quantizers(found.program, alone))))
        assert result.damage == pytest.approx(expected, rel=1e-3, abs=1e-6), block.name


def test_few_bits_are_learned_to_less_error():
    found = started(PROGRAMS[TwoLayers], "inputs", "w4a4")
    options = LearningOptions(worth=0.0, iterations=60, batch=8, global_images=4)
    results = list(reconstruction(found, found.simulation, options).run())
    assert sum(r.after for r in results) < 0.9 * sum(r.before for r in results)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    found = started(PROGRAMS[Tokens], "inputs", "w4a4")
    states = []
    for seed in (0, 0, 1):
        simulation = found.simulation
        list(
            reconstruction(
                found, simulation, LearningOptions(worth=0.0, iterations=8, batch=8, seed=seed)
            ).run()
        )
        states.append(state_of(simulation))
    assert_same_state(states[0], states[1])
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


@pytest.mark.parametrize("placement", [pytest.param("inputs", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("model", PROGRAMS)
def test_going_on_behind_any_block_gives_the_bits_of_a_run_that_never_stopped(model, placement):
    found = started(PROGRAMS[model], placement, "w4a4")
    simulation, left = found.simulation, []
    results = []
    for result in reconstruction(found, simulation).run():
        results.append(result)
        left.append(state_of(simulation))
    for done in range(1, len(left)):
        resumed = found.simulation
        rest = reconstruction(found, resumed)
        resumed.load_state(left[done - 1])
        assert list(rest.run(done)) == results[done:]
        assert_same_state(state_of(resumed), left[-1])


def test_a_block_that_is_done_is_not_changed_by_those_after_it():
    found = started(PROGRAMS[TwoLayers], "full", "w4a4")
    simulation = found.simulation
    blocks = find_blocks(found.program)
    runner = simulation.runner
    outputs = []
    for block, _ in zip(blocks, reconstruction(found, simulation).run(), strict=True):
        with torch.no_grad():
            known = {runner.image: images()}
            outputs.append(runner.run(known, block.outputs, overrides=simulation.overrides))
    with torch.no_grad():
        for block, before in zip(blocks, outputs, strict=True):
            after = runner.run({runner.image: images()}, block.outputs, overrides=simulation.overrides)
            assert all(torch.equal(after[name], before[name]) for name in block.outputs), block.name


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.sampled_from(["inputs", "layers", "full"]))
def test_every_parameter_is_learned_once(model, placement):
    found = started(PROGRAMS[model], placement)
    simulation = found.simulation
    parts = learnables(simulation, find_blocks(found.program))
    learned = [id(tensor) for part in parts for tensor in part.tensors()]
    assert len(learned) == len(set(learned))
    assert sum(len(part.weights) for part in parts) == len(found.quantization.weights)
    fixed = [group.values[0] for group in groups(found.program.graph, found.levels) if group.fixed]
    assert not {id(simulation.grids[first].log_scale) for first in fixed} & set(learned)


def test_the_grid_on_which_a_block_reads_its_input_is_learned_with_it():
    found = started(PROGRAMS[Net], "inputs")
    simulation = found.simulation
    first = learnables(simulation, find_blocks(found.program))[0]
    assert simulation.grids[Runner(found.program).image] in first.grids


def test_what_learning_makes_worse_is_taken_back(monkeypatch):
    def spoil(block: Learnable, *_: object) -> None:
        with torch.no_grad():
            for tensor in block.tensors():
                tensor.add_(3.0)

    monkeypatch.setattr(reconstruct, "learn", spoil)
    found = started(PROGRAMS[Net], "layers", "w4a8")
    simulation = found.simulation
    results = list(reconstruction(found, simulation).run())
    assert all(result.after == result.before for result in results)
    same_quantization(simulation.finished(), found.quantization)


def test_what_learning_makes_not_a_number_is_taken_back(monkeypatch):
    def spoil(block: Learnable, *_: object) -> None:
        with torch.no_grad():
            for bias in block.biases:
                bias.value.fill_(math.nan)

    monkeypatch.setattr(reconstruct, "learn", spoil)
    found = started(PROGRAMS[Net], precision="w8")
    simulation = found.simulation
    assert all(r.after == r.before for r in reconstruction(found, simulation).run())
    assert all(bool(torch.isfinite(value).all()) for value in simulation.state().values())


@pytest.mark.parametrize("model", [Net, Folded])
@pytest.mark.parametrize("precision", ["w4a4", "w8"])
def test_importance_has_the_shape_of_one_image_and_mean_one(model, precision):
    found = started(PROGRAMS[model], "inputs", precision)
    names = [name for block in find_blocks(found.program) for name in block.outputs]
    weights = importance(found.simulation, Runner(found.program), images(), names)
    assert weights.keys() == set(names)
    for name, weight in weights.items():
        assert len(weight) == 1
        assert float(weight.mean()) == pytest.approx(1, rel=1e-4)
        assert bool((weight >= 0).all())
        assert (
            weight.numel() * len(images())
            == Runner(found.program).run({Runner(found.program).image: images()}, [name])[name].numel()
        )


def test_importance_is_larger_where_the_prediction_depends_on_a_value():
    module = seeded(Net)
    with torch.no_grad():
        module.head.weight[:, :4] *= 0.01
    found = started(module, "inputs", "w4a4")
    mean = named(found.program, "mean").name
    weights = importance(found.simulation, Runner(found.program), images(), [mean])[mean]
    assert float(weights[0, 4:].mean()) > 100 * float(weights[0, :4].mean())


def test_importance_weighs_every_image_alike_however_many_run_at_once(monkeypatch):
    found = started(PROGRAMS[Net], "inputs", "w4a4")
    names = [name for block in find_blocks(found.program) for name in block.outputs]
    weights = []
    for batch in (5, len(images())):
        monkeypatch.setattr(reconstruct, "_IMPORTANCE_BATCH", batch)
        weights.append(importance(found.simulation, Runner(found.program), images(), names))
    for name in names:
        assert torch.allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_windows_folded_into_the_batch_are_learned_by_image():
    found = started(PROGRAMS[Folded], "inputs", "w4a4")
    inner = {n for block in find_blocks(found.program) for n in block.inputs}
    runner = Runner(found.program)
    sizes = {name: runner.nodes[name].meta["val"].shape[0] for name in inner}
    assert len({str(size) for size in sizes.values()}) > 1, "no block reads windows"
    results = list(reconstruction(found, found.simulation).run())
    assert sum(r.after for r in results) < sum(r.before for r in results)


def test_fewer_images_than_a_batch_are_enough():
    found = started(PROGRAMS[Net], "inputs", "w4a4")
    run = Reconstruction(
        found.program,
        found.simulation,
        find_blocks(found.program),
        images(3),
        LearningOptions(worth=0.0, iterations=2),
    )
    assert len(list(run.run())) == len(find_blocks(found.program))


def test_without_images_behind_a_block_its_own_error_is_all():
    found = started(PROGRAMS[Net], "inputs", "w4a4")
    options = LearningOptions(worth=0.0, iterations=30, batch=8, global_images=0)
    results = list(reconstruction(found, found.simulation, options).run())
    assert sum(r.after for r in results) < sum(r.before for r in results)


def test_a_dead_block_is_learned_without_dividing_by_zero():
    module = seeded(Net)
    with torch.no_grad():
        module.stem.weight.zero_()
        module.stem.bias.zero_()
        module.head.weight.zero_()
    found = started(module, "full", "w4a4")
    simulation = found.simulation
    assert all(math.isfinite(result.after) for result in reconstruction(found, simulation).run())
    assert all(bool(torch.isfinite(value).all()) for value in simulation.state().values())
    assert bool(torch.isfinite(logits(found.quantized)).all())
