"""What a model, its images and its activations are told before anything is quantized."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.quant.calibration import Calibration, check_observed, check_weights
from edgevit.quant.observation import observe
from tests.quant.helpers import SHAPE, Net, images, named, prepared, seeded

NET = prepared(seeded(Net))
IMAGES = images().numpy()


def test_images_and_labels_become_tensors():
    found = Calibration.of(NET, IMAGES, [0, 1] * 6)
    assert torch.equal(found.images, images())
    assert found.labels.tolist() == [0, 1] * 6
    assert Calibration.of(NET, IMAGES).labels is None


def test_seven_images_are_refused_and_eight_are_taken():
    with pytest.raises(EdgevitError, match="--calib: 7 images are too few to learn ranges from"):
        Calibration.of(NET, IMAGES[:7])
    assert len(Calibration.of(NET, IMAGES[:8]).images) == 8


def test_images_of_another_shape_are_refused():
    with pytest.raises(EdgevitError, match=r"--calib: images of shape \(3, 8, 4\); model takes \(3, 8, 8\)"):
        Calibration.of(NET, IMAGES[..., :4])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_images_that_are_no_numbers_are_refused(bad):
    broken = IMAGES.copy()
    broken[3, 0, 0, 0] = bad
    with pytest.raises(EdgevitError, match="--calib: the prepared images hold NaN or infinite values"):
        Calibration.of(NET, broken)


def test_labels_that_are_too_many_or_too_few_are_refused():
    with pytest.raises(EdgevitError, match="--calib: 12 images and 3 labels"):
        Calibration.of(NET, IMAGES, [0, 1, 2])


def test_one_class_alone_is_warned_of_and_taken():
    with pytest.warns(UserWarning, match="all 12 images are of class 2; ranges learned from one class"):
        found = Calibration.of(NET, IMAGES, [2] * 12)
    assert found.labels.tolist() == [2] * 12


def test_several_classes_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Calibration.of(NET, IMAGES, [0] * 11 + [1])


def test_images_that_are_a_view_with_gaps_are_taken():
    gaps = np.repeat(IMAGES, 2, axis=0)[::2]
    assert torch.equal(Calibration.of(NET, gaps).images, images())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_refused_by_the_layers_name(bad):
    module = seeded(Net)
    with torch.no_grad():
        module.mix.weight[2, 0, 1, 1] = bad
    with pytest.raises(EdgevitError, match="model: the weight of mix holds NaN or infinite values; capture"):
        check_weights(prepared(module))


def test_dead_channels_are_counted_by_the_layers_name():
    module = seeded(Net)
    with torch.no_grad():
        module.stem.weight[:3] = 0
        module.head.weight[1] = 0
    assert check_weights(prepared(module)) == (
        "stem: 3 of 8 output channels have only zero weights",
        "head: 1 of 4 output channels have only zero weights",
    )


def test_sound_weights_need_no_remark():
    assert check_weights(NET) == ()


@pytest.mark.parametrize("number", [0.0, 2.0, -2.0])
def test_an_activation_that_never_changes_is_named(number):
    module = seeded(Net)
    with torch.no_grad():
        module.mix.weight.zero_()
        module.mix.bias.fill_(number)
    program = prepared(module)
    name = named(program, "conv2d").name
    found = observe(program, images(), [name, "conv2d_1"])
    expected = f"mix: its output is {number:g} on every calibration image"
    assert check_observed(program, found) == (expected,)


@pytest.mark.parametrize("where", [0, 40])
def test_an_activation_that_is_no_number_is_refused_by_name(where):
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.conv(x) + x.sqrt()).mean((2, 3))

    program = prepared(Root())
    batch = torch.rand(45, *SHAPE)
    batch[where] = -1
    found = observe(program, batch, [named(program, "conv2d").name, named(program, "sqrt").name])
    with pytest.raises(EdgevitError, match="the output of sqrt is NaN or infinite on the calibration images"):
        check_observed(program, found)
