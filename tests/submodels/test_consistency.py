"""How far a submodel and its parent say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.graph.axes import find_axes
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.slicing import slice_axis
from edgevit.submodels.consistency import Reference
from edgevit.submodels.extraction import extract
from edgevit.submodels.nesting import nesting_of
from tests.pruning.patterns import learned, patterns
from tests.submodels.helpers import logits, nested


def test_a_program_is_consistent_with_itself():
    images, labels = patterns(48)
    found = Reference.of(learned(), images.numpy(), labels.numpy()).consistency(learned())
    assert found.agreement == 100.0
    assert found.divergence == pytest.approx(0.0, abs=1e-9)
    assert found.accuracy == 100 * float((logits(learned(), images).argmax(1) == labels).float().mean())
    assert found.neighbour is not None
    # Chance would be a sixth.
    assert found.neighbour > 60


def test_without_labels_there_is_no_accuracy():
    images, _ = patterns(12)
    found = Reference.of(learned(), images.numpy()).consistency(learned())
    assert (found.accuracy, found.neighbour) == (None, None)


def test_a_narrow_submodel_is_less_consistent():
    parent = nested()
    images, labels = patterns(96, seed=3)
    reference = Reference.of(parent, images.numpy(), labels.numpy())
    allowed = nesting_of(parent).widths
    divergences = [
        reference.consistency(
            extract(parent, {name: widths[place] for name, widths in allowed.items()})
        ).divergence
        for place in (0, -1)
    ]
    assert divergences[0] > 10 * divergences[1] + 1e-6


def test_the_nearest_is_another_image():
    images = torch.zeros(4, 3, 16, 16)
    reference = Reference(
        images.numpy(),
        torch.zeros(4, 6),
        torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]),
        np.arange(4),
    )
    assert reference._nearest(reference.features).tolist() == [1, 0, 3, 2]


def test_features_of_another_width_have_no_nearest_neighbour():
    program = prepare_for_export(learned())
    axis = next(axis for axis in find_axes(program) if axis.role == "residual" and not axis.fixed)
    small = slice_axis(program, axis, range(16))
    images, labels = patterns(6)
    found = Reference.of(program, images.numpy(), labels.numpy()).consistency(small)
    assert found.neighbour is None
    assert found.accuracy is not None
