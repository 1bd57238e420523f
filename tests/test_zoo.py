"""The zoo must be seeded and leave no branch silent, or the tests that use it show nothing."""

import pytest
import torch
from torch import nn

from tests.models.mobile_former import BLOCKS, FormerToMobile, MobileFormer, MobileToFormer
from tests.zoo import HYBRIDS, MODELS, NUM_CLASSES, example, rerandomise

SMALL = ["hf_swiftformer", "videomae"]


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_the_same_every_time_it_is_built(name):
    first, second = (MODELS[name]()[0].state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", SMALL)
def test_building_a_model_leaves_the_random_state_of_others_alone(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    MODELS[name]()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS)])
def test_no_parameter_is_constant_and_the_logits_are_about_the_input(name):
    module, shape = MODELS[name]()
    constant = [key for key, value in module.named_parameters() if value.numel() > 1 and value.std() == 0]
    assert constant == []
    with torch.no_grad():
        logits = module(example(shape, 4, seed=9))
    assert logits.shape == (4, NUM_CLASSES)
    assert logits.std(dim=0).mean() > 0.02 * logits.abs().max()


def test_rerandomising_wakes_what_fresh_modules_keep_silent():
    norm = rerandomise(nn.BatchNorm2d(8))
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert value.std() > 0
    assert norm.running_var.min() > 0


def test_mobile_former_has_a_bridge_each_way_around_every_block_and_one_to_the_head():
    module = MobileFormer()
    bridges = [part for part in module.modules() if isinstance(part, MobileToFormer | FormerToMobile)]
    assert len(bridges) == 2 * len(BLOCKS) + 1


def test_every_hybrid_of_the_papers_is_there():
    families = {name.removeprefix("hf_") for name in HYBRIDS}
    assert {"tnt", "crossvit", "mobile_former", "cvt", "dinov2", "pvtv2", "swiftformer"} <= families
