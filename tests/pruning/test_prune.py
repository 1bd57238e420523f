"""A Program is cut to a budget, and is still a Program that can be used for all that one is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Role, find_axes, stored_tensors
from edgevit.graph.card import Step
from edgevit.graph.costs import macs_by_node
from edgevit.graph.program import Program
from edgevit.pruning.prune import DEFAULT_ROLES, Pruner, PruneResult, prune
from tests import zoo
from tests.pruning.nets import Attention, Convolutions, Mixer, program
from tests.quant.helpers import SHAPE, images, seeded
from tests.rewrites.helpers import program_of
from tests.test_slicing import Block, models, prepared

ROLES = get_args(Role)
NETS: dict[str, Callable[[], nn.Module]] = {
    "block": Block,
    "attention": Attention,
    "spelled": lambda: Attention(spelled=True),
    "convolutions": Convolutions,
    "mixer": Mixer,
}


def batch(count: int = 48, *, seed: int = 0) -> np.ndarray:
    return images(count, seed=seed).numpy()


@pytest.fixture(scope="module")
def pruner() -> Pruner:
    return Pruner(program(Block), batch(), roles=ROLES)


def check_costs(result: PruneResult) -> None:
    """What a result says of its program is so."""
    assert result.macs[1] == sum(macs_by_node(result.program).values())
    assert result.parameters[1] == sum(value.numel() for _, _, value in stored_tensors(result.program))


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("of", ["macs", "parameters"])
def test_the_budget_is_held(name, of):
    result = prune(program(NETS[name]), batch(), keep=0.6, of=of, roles=ROLES)
    before, after = getattr(result, of)
    assert 0.3 * before < after <= 0.6 * before
    check_costs(result)
    assert result.divergence[1] <= result.divergence[0]


def test_more_that_is_kept_costs_more_and_diverges_less(pruner):
    results = [pruner.cut(pruner.widths(keep)) for keep in (0.4, 0.6, 0.8)]
    macs = [result.macs[1] for result in results]
    assert macs == sorted(macs)
    expected = [sum(axis.loss for axis in result.axes) for result in results]
    assert expected == sorted(expected, reverse=True)
    assert results[0].divergence[1] > results[-1].divergence[1]


def test_a_result_says_what_became_of_each_axis(pruner):
    widths = pruner.widths(0.5)
    result = pruner.cut(widths)
    assert {axis.name: axis.kept for axis in result.axes} == {
        axis.name: kept for axis, kept in widths.items()
    }
    assert {axis.role for axis in result.axes} == {"residual", "heads", "query-key", "value", "hidden"}
    left = {axis.name: axis.size for axis in find_axes(result.program) if not axis.fixed}
    for axis in result.axes:
        assert 1 <= axis.kept <= axis.size
        assert (axis.loss == 0) == (axis.kept == axis.size)
        assert axis.kept == 1 or axis.kept in left.values()
    assert result.images == 48
    assert result.seconds > 0


def test_what_is_not_fitted_keeps_its_weights(pruner):
    widths = pruner.widths(0.5)
    plain = pruner.cut(widths, compensation=False)
    assert plain.layers == ()
    assert plain.divergence[0] == plain.divergence[1]
    stored = pruner.sliced(widths).exported.state_dict
    assert all(torch.equal(value, stored[path]) for path, value in plain.program.exported.state_dict.items())
    fitted = pruner.cut(widths)
    assert fitted.layers
    assert fitted.divergence[1] < fitted.divergence[0] == plain.divergence[0]


def test_one_step_of_the_card_says_all_of_it(pruner):
    result = pruner.cut(pruner.widths(0.5))
    card = result.program.card
    assert card.steps[:-1] == pruner.program.card.steps
    step = card.steps[-1]
    assert step.name == "prune"
    assert step.options == {"roles": list(ROLES), "compensation": True, "seed": 0}
    assert step.measured["macs"] == list(result.macs)
    assert step.measured["parameters"] == list(result.parameters)
    assert step.measured["images"] == 48
    assert step.measured["widths"] == {axis.name: axis.kept for axis in result.axes if axis.kept < axis.size}
    assert card.model_copy(update={"steps": ()}) == pruner.program.card.model_copy(update={"steps": ()})


def test_what_is_pruned_can_be_saved_and_loaded(pruner, tmp_path):
    small = pruner.cut(pruner.widths(0.5)).program
    loaded = Program.load(small.save(tmp_path / "small.pt2"))
    np.testing.assert_allclose(loaded.run(batch(5))[0], small.run(batch(5))[0], rtol=1e-5, atol=1e-6)
    assert loaded.card == small.card


def test_what_is_pruned_can_be_pruned_again(pruner):
    small = pruner.cut(pruner.widths(0.7)).program
    smaller = prune(small, batch(), keep=0.7)
    assert smaller.macs[0] == sum(macs_by_node(small).values())
    assert [step.name for step in smaller.program.card.steps] == ["prune", "prune"]


def test_what_is_pruned_is_exported_and_runs_the_same(pruner, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgevit.export import export

    small = pruner.cut(pruner.widths(0.5)).program
    export(small, output=tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (name,) = (given.name for given in session.get_inputs())
    for image in batch(3):
        (found,) = session.run(None, {name: image[None]})
        np.testing.assert_allclose(found, small.run(image[None])[0], rtol=1e-4, atol=1e-5)


def test_the_program_that_was_given_stays_as_it_is():
    whole = program(Block)
    expected = whole.run(batch(4))[0]
    prune(whole, batch(), roles=ROLES)
    assert np.array_equal(whole.run(batch(4))[0], expected)


def test_the_same_seed_gives_the_same_program():
    first, again, other = (prune(program(Block), batch(), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.program.run(batch(4))[0], again.program.run(batch(4))[0])
    assert first.axes == again.axes
    assert first.axes != other.axes
    assert other.program.card.steps[-1].options["seed"] == 2


def test_axes_of_other_roles_stay():
    result = prune(program(Block), batch(), keep=0.8, roles=("hidden",))
    assert {axis.role for axis in result.axes} == {"hidden"}
    sizes = {axis.size for axis in find_axes(result.program)}
    assert {12, 3, 5, 7} <= sizes


def test_the_width_and_the_heads_of_a_network_go_only_when_asked_for():
    assert set(ROLES) - set(DEFAULT_ROLES) == {"residual", "heads"}


@pytest.mark.parametrize("keep", [0, 1, 1.5, -0.5, float("nan")])
def test_a_share_that_is_none_is_refused_before_anything_is_done(keep):
    with pytest.raises(EdgevitError, match=f"--keep: {keep:g} is no share; give a number between 0 and 1"):
        prune(program(Block), batch(), keep=keep)


def test_a_share_that_cannot_be_met_says_by_how_much(pruner):
    with pytest.raises(EdgevitError, match=r"--keep 0\.001 of macs: the budget of .* too much"):
        pruner.widths(0.001)


def with_step(found: Program, name: str) -> Program:
    return Program(found.exported, found.card.with_step(Step(name=name)))


def without_values(count: int = 16) -> np.ndarray:
    found = batch(count)
    found[3, 0, 0, 0] = np.nan
    return found


REFUSED = {
    "a role": (
        lambda: program(Block),
        batch,
        {"roles": ("hiden",)},
        "--role: 'hiden' is unknown; did you mean \"hidden\"?",
    ),
    "no role": (lambda: program(Block), batch, {"roles": ()}, "--role: none is given; known: heads"),
    "a budget": (
        lambda: program(Block),
        batch,
        {"of": "params"},
        "--of: 'params' is unknown; did you mean \"parameters\"?",
    ),
    "few images": (
        lambda: program(Block),
        lambda: batch(15),
        {},
        "15 images to prune model with: give 16 at least",
    ),
    "other images": (
        lambda: program(Block),
        lambda: np.zeros((16, 3, 9, 8), np.float32),
        {},
        r"images of shape \(3, 9, 8\); model takes \(3, 8, 8\)",
    ),
    "images without values": (
        lambda: program(Block),
        without_values,
        {},
        "the images to prune model with hold NaN or infinite values",
    ),
    "a fixed batch": (
        lambda: program(Block).with_batch(2),
        batch,
        {},
        "model was captured for a batch of 2; capture it with a dynamic batch",
    ),
    "a quantized program": (
        lambda: with_step(program(Block), "quantize"),
        batch,
        {},
        "model is quantized: prune the float Program",
    ),
    "no axis": (
        lambda: program(Mixer),
        batch,
        {"roles": ("heads", "value")},
        "model has no axis of role heads or value that may shrink",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_pruned_is_refused_in_a_sentence(name):
    module, given, options, sentence = REFUSED[name]
    with pytest.raises(EdgevitError, match=sentence.replace("?", r"\?")):
        prune(module(), given(), **options)


def test_predictions_that_are_no_numbers_are_refused():
    module = seeded(Block)
    with torch.no_grad():
        module.down.bias[0] = torch.inf
    with pytest.raises(EdgevitError, match="model gives NaN or infinite predictions"):
        prune(program_of(module, SHAPE), batch())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(param.values[0], marks=param.marks, id=param.values[0])
        for param in models(("hf_dinov2", "mobilevit_xxs"))
        if param.values[0] in {*zoo.TIMM, "hf_dinov2"}
    ],
)
def test_models_are_cut_to_half_with_every_role(name):
    found = prepared(name)
    shape = tuple(int(size) for size in found.input_shape[1:])
    given = zoo.example(shape, 16).numpy()
    result = prune(found, given, keep=0.5, roles=ROLES)
    assert result.macs[1] <= 0.5 * result.macs[0]
    check_costs(result)
    small = result.program
    assert small.batch is None
    assert np.isfinite(small.run(given[:3])[0]).all()
    assert result.divergence[1] < result.divergence[0]
