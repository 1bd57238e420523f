"""A submodel computes what its parent does with everything read as zero that the submodel lacks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.graph.axes import find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.submodels.consistency import Reference
from edgevit.submodels.elastic import elastic, sort_units, widths_of
from edgevit.submodels.extraction import extract, masked, refitted
from edgevit.submodels.nesting import Fit, Nesting, nesting_of, with_nesting
from tests.conformance import program_of as zoo_program
from tests.masking import masked as masked_units
from tests.pruning.patterns import learned, patterns
from tests.submodels.helpers import logits, nested, relative


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_submodel_equals_its_masked_parent(data):
    parent = nested()
    widths = {
        name: data.draw(st.sampled_from(allowed), label=name)
        for name, allowed in nesting_of(parent).widths.items()
    }
    images, _ = patterns(12)
    small = extract(parent, widths)
    assert relative(logits(small, images), logits(masked(parent, widths), images)) < 1e-5
    assert small.parameter_count <= parent.parameter_count
    with pytest.raises(EdgevitError, match="is not nested"):
        nesting_of(small)


@pytest.mark.parametrize("name", ["deit_tiny", pytest.param("mobilevit_xxs", marks=pytest.mark.slow)])
def test_prefixes_of_a_real_model_without_fits_are_plain_slices(name):
    program = prepare_for_export(zoo_program(name))
    axes = [axis for axis in find_axes(program) if axis.role == "hidden" and not axis.fixed]
    parent = with_nesting(program, Nesting({axis.name: widths_of(axis.size, (0.25, 0.5)) for axis in axes}))
    widths = {
        name: allowed[place % 3] for place, (name, allowed) in enumerate(nesting_of(parent).widths.items())
    }
    images = torch.randn(2, *program.input_shape[1:], generator=torch.manual_seed(0))
    small = extract(parent, widths)
    assert relative(logits(small, images), logits(masked(parent, widths), images)) < 1e-5
    gone = {axis: list(range(widths[axis.name])) for axis in axes if widths[axis.name] < axis.size}
    assert relative(logits(small, images), masked_units(program, gone, images)) < 1e-4


def test_the_parent_and_the_whole_submodel_compute_what_the_model_did():
    images, _ = patterns(24)
    expected = logits(learned(), images)
    parent = nested()
    assert relative(logits(parent, images), expected) < 1e-5
    whole = extract(parent, {})
    assert relative(logits(whole, images), expected) < 1e-5
    assert whole.parameter_count == learned().parameter_count


def test_a_saved_parent_gives_the_same_submodels(tmp_path):
    parent = nested()
    loaded = Program.load(parent.save(tmp_path / "parent.pt2"))
    assert nesting_of(loaded).widths == nesting_of(parent).widths
    widths = {name: allowed[0] for name, allowed in nesting_of(parent).widths.items()}
    images, _ = patterns(6)
    assert torch.equal(logits(extract(loaded, widths), images), logits(extract(parent, widths), images))


def test_units_in_another_order_change_nothing():
    program = prepare_for_export(learned())
    axes = [axis for axis in find_axes(program) if not axis.fixed]
    source = torch.manual_seed(0)
    order = {
        axis: torch.randperm(axis.size, generator=source).tolist()
        for axis in axes
        if axis.role != "query-key"
    }
    assert {axis.role for axis in order} >= {"hidden", "residual", "heads"}
    images, _ = patterns(12)
    assert relative(logits(sort_units(program, order), images), logits(program, images)) < 1e-5


def test_layers_that_are_fitted_to_a_submodel_mend_what_those_before_lost():
    parent = nested()
    widths = {name: allowed[0] for name, allowed in nesting_of(parent).widths.items()}
    small, fitted = extract(parent, widths), refitted(parent, widths, patterns(64)[0])
    images, _ = patterns(96, seed=4)
    reference = Reference.of(parent, images.numpy())
    before, after = (reference.consistency(one).divergence for one in (small, fitted))
    assert after < 0.8 * before
    assert relative(logits(refitted(parent, {}, images), images), reference.logits) < 1e-6


def test_what_is_rewritten_is_not_nested_any_more():
    small = prepare_for_export(sort_units(nested(), {}))
    with pytest.raises(EdgevitError, match="is not nested: it holds no submodels"):
        extract(small, {})


def test_the_steps_of_a_submodel_say_what_it_is():
    parent = nested()
    widths = {name: allowed[0] for name, allowed in nesting_of(parent).widths.items()}
    step = extract(parent, widths).card.steps[-1]
    assert step.name == "submodel"
    assert step.measured["widths"] == widths


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"block.fc9:hidden": 8}, r"^block.fc9:hidden: .* is not nested by it; did you mean"),
        ({"block.fc1:hidden": 9}, r"^block.fc1:hidden: 9 units; .* is nested at 8, 16, 24,"),
    ],
)
def test_widths_that_there_are_not_are_refused(widths, message):
    for make in (extract, masked):
        with pytest.raises(EdgevitError, match=message):
            make(nested(), widths)


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("block.fc1:nothing", (8, 64), "is no axis of"),
        ("head:hidden", (2, 6), "may not be sliced|is no axis of"),
        ("block.fc1:hidden", (8, 32), "end with all 64"),
        ("block.fc1:hidden", (8, 8, 64), "must be different"),
        ("block.fc1:hidden", (), "given: none"),
    ],
)
def test_a_nesting_that_cannot_be_is_refused(name, widths, message):
    with pytest.raises(EdgevitError, match=message):
        with_nesting(prepare_for_export(learned()), Nesting({name: widths}))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (torch.zeros(3, 8), None),
        (torch.full((32, 8), torch.nan), None),
        (torch.zeros(32, 8), torch.zeros(31)),
        (torch.zeros(32, 8), torch.full((32,), torch.inf)),
    ],
)
def test_a_damaged_fit_is_refused(weight, bias):
    name = "block.fc1:hidden"
    layer = next(iter(nesting_of(nested()).fits[name, 8]))
    made = Nesting({name: (8, 64)}, {(name, 8): {layer: Fit(weight, bias)}})
    with pytest.raises(EdgevitError, match="is damaged: the weight of"):
        extract(with_nesting(prepare_for_export(learned()), made), {name: 8})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nested/block.fc9:hidden", torch.tensor([8, 64]), "is no axis of"),
        ("nested/block.fc1:hidden", torch.tensor([8, 128]), "end with all 64"),
        ("nested/block.fc1:hidden", torch.tensor(8), "end with all 64"),
        ("nested/block.fc1:hidden/8/linear_1/bias", torch.zeros(32), "has no weight"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(path, value, message):
    program = with_nesting(prepare_for_export(learned()), Nesting({"block.fc1:hidden": (8, 64)}))
    program.exported.constants[path] = value
    with pytest.raises(EdgevitError, match=message):
        nesting_of(program)


@functools.cache
def _images() -> np.ndarray:
    return patterns(64)[0].numpy()


def test_fitted_layers_err_less_than_their_first_columns():
    made = elastic(learned(), _images())
    assert made.errors
    for key, (before, after) in made.errors.items():
        assert after <= before, key
    assert sum(after for _, after in made.errors.values()) < 0.7 * sum(
        before for before, _ in made.errors.values()
    )
