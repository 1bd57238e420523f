"""Learning what a block can learn, on losses that are easy to foresee."""

from __future__ import annotations

import pytest
import torch

from edgevit.quant.grids import ActivationGrid, round_weight, weight_scales
from edgevit.quant.learning import Learnable, LearningOptions, learn
from edgevit.quant.simulation import LearnedBias, LearnedGrid, LearnedWeight

OPTIONS = LearningOptions(iterations=60)


def weight_of(values: torch.Tensor, bits: int = 4) -> LearnedWeight:
    scales = weight_scales(values, bits=bits, axis=0)
    return LearnedWeight(values, round_weight(values, scales, bits=bits, axis=0))


def random_weight(seed: int = 0) -> LearnedWeight:
    return weight_of(torch.randn(4, 12, generator=torch.Generator().manual_seed(seed)))


# A weight behind inputs of three directions alone: what one rounding does there, others can undo. Besides, a
# loss that no rounding can change, as the error of a block's input makes it.
REST = 0.1


def error_of(learned: LearnedWeight) -> torch.Tensor:
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    return ((learned() - learned.weight) @ inputs).square().mean() + REST


def test_roundings_are_decided_together_where_their_errors_cancel():
    learned = random_weight()
    start = float(error_of(learned).detach()) - REST
    options = LearningOptions(iterations=200, decision_weight=50)
    learn(Learnable((), (learned,), ()), lambda _: [error_of(learned)], options)
    assert float(error_of(learned).detach()) - REST < start / 2


def test_a_scale_shrinks_where_an_outlier_made_it_too_large():
    learned = LearnedGrid(ActivationGrid.of_range(0.0, 8.0, bits=3))
    values = torch.rand(500, generator=torch.Generator().manual_seed(0))
    block = Learnable((learned,), (), ())
    before = float((learned(values) - values).square().mean().detach())
    options = LearningOptions(iterations=200, scale_rate=5e-2)
    learn(block, lambda _: [(learned(values) - values).square().mean()], options)
    assert learned.finished().scale < 0.5
    assert float((learned(values) - values).square().mean().detach()) < before / 4


def test_a_bias_takes_up_a_constant_error():
    weight = random_weight()
    learned = LearnedBias(torch.ones(4), weight, None)
    options = LearningOptions(iterations=200)
    learn(Learnable((), (), (learned,)), lambda _: [(learned() - 1.1).square().sum()], options)
    assert torch.allclose(learned.value.detach(), torch.full((4,), 1.1), atol=0.02)


def test_roundings_are_hard_before_and_after():
    learned = random_weight()
    assert learned.hard
    seen = []

    def losses(_: int) -> list[torch.Tensor]:
        seen.append(learned.hard)
        return [(learned() - learned.weight).square().sum()]

    learn(Learnable((), (learned,), ()), losses, LearningOptions(iterations=3))
    assert seen == [False] * 3
    assert learned.hard


def test_a_strong_push_decides_nearly_all_roundings_in_the_end():
    learned = random_weight()
    options = LearningOptions(iterations=1000, decision_weight=50)
    learn(Learnable((), (learned,), ()), lambda _: [error_of(learned)], options)
    learned.hard = False
    assert float(learned.undecided(2.0).detach()) < 0.05


def test_a_loss_that_is_zero_from_the_start_does_no_harm():
    learned = weight_of(torch.ones(2, 3))
    learn(Learnable((), (learned,), ()), lambda _: [(learned() - learned.weight).square().sum()], OPTIONS)
    assert torch.equal(learned.finished().values, learned.start.values)
    assert bool(torch.isfinite(learned.logits).all())


def test_the_error_behind_a_block_counts_with_its_weight():
    def bias_after(weight: float) -> torch.Tensor:
        learned = LearnedBias(torch.zeros(2) + 0.5, random_weight(), None)
        options = LearningOptions(iterations=200, global_weight=weight, bias_rate=0.05)

        def losses(_: int) -> list[torch.Tensor]:
            return [(learned() - 0).square().sum(), (learned() - 1).square().sum()]

        learn(Learnable((), (), (learned,)), losses, options)
        return learned.value.detach().mean()

    # Minimum of b^2 + w (1 - b)^2 is w / (1 + w).
    assert float(bias_after(0.0)) == pytest.approx(0.0, abs=0.05)
    assert float(bias_after(1.0)) == pytest.approx(0.5, abs=0.05)
    assert float(bias_after(9.0)) == pytest.approx(0.9, abs=0.05)


def test_what_was_copied_can_be_restored():
    weight = random_weight()
    grid = LearnedGrid(ActivationGrid.of_range(-1, 2))
    block = Learnable((grid,), (weight,), (LearnedBias(torch.ones(4), weight, grid),))
    values = block.copied()
    with torch.no_grad():
        for tensor in block.tensors():
            tensor.add_(1)
    block.restore(values)
    assert all(torch.equal(a.detach(), b) for a, b in zip(block.tensors(), values, strict=True))
