"""Learn one block's roundings, scales and biases, by gradient descent on its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edgevit.quant.simulation import LearnedBias, LearnedGrid, LearnedWeight

# AdaRound's schedule: roundings are free at first, then pushed to a decision ever more sharply.
_WARM_UP = 0.2
_SHARPEST, _SOFTEST = 2.0, 20.0


@dataclass(frozen=True)
class LearningOptions:
    """How one block is learned.

    Attributes:
        worth: nats of KL that a block has to do by itself for learning to be worth its time. Below, what can
            be gained is less than what learning from so few images gets wrong.
        iterations: steps of Adam.
        batch: images in a step.
        global_images: of them, how many also run through the float remainder of the network; 0 for none.
        global_weight: of the divergence found there, beside the block's own error.
        drop: share of the block's input that is taken from the float network (QDrop).
        scale_rate: learning rate of the logarithm of activation scales.
        rounding_rate: learning rate of the logits of roundings.
        bias_rate: learning rate of biases, relative to their mean size.
        decision_weight: of the push towards decided roundings, beside losses that start at 1.
        seed: of the choice of images and of what is dropped.
    """

    worth: float = 1e-3
    iterations: int = 200
    batch: int = 32
    global_images: int = 8
    global_weight: float = 0.1
    drop: float = 0.5
    scale_rate: float = 2e-3
    rounding_rate: float = 1e-1
    bias_rate: float = 1e-2
    decision_weight: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Learnable:
    """What a block can learn."""

    grids: tuple[LearnedGrid, ...]
    weights: tuple[LearnedWeight, ...]
    biases: tuple[LearnedBias, ...]

    def tensors(self) -> list[torch.Tensor]:
        """Every parameter."""
        return [
            *(grid.log_scale for grid in self.grids),
            *(weight.logits for weight in self.weights),
            *(bias.value for bias in self.biases),
        ]

    def copied(self) -> list[torch.Tensor]:
        """The parameters' values now."""
        return [tensor.detach().clone() for tensor in self.tensors()]

    def restore(self, values: list[torch.Tensor]) -> None:
        """Back to values that `copied` gave."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors(), values, strict=True):
                tensor.copy_(value)

    def decide(self, *, hard: bool) -> None:
        """Round as it will ship, or softly as it is learned."""
        for weight in self.weights:
            weight.hard = hard


def learn(block: Learnable, losses: Callable[[int], list[torch.Tensor]], options: LearningOptions) -> None:
    """Minimise the block's own error and, with less weight, the one behind it, each relative to its start.

    Args:
        block: what may change.
        losses: called with the number of the step; the two scalars with gradients, or the first alone.
        options: rates and lengths.
    """
    optimizer = _optimizer(block, options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.iterations)
    block.decide(hard=False)
    scales: list[float] = []
    for step in range(options.iterations):
        found = losses(step)
        scales = scales or [max(float(loss.detach()), 1e-12) for loss in found]
        own, *behind = [loss / scale for loss, scale in zip(found, scales, strict=True)]
        total = own + options.global_weight * sum(behind)
        total = total + options.decision_weight * _undecided(block, step / options.iterations)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    block.decide(hard=True)


def _optimizer(block: Learnable, options: LearningOptions) -> torch.optim.Optimizer:
    parameters: list[dict[str, object]] = [
        {"params": [grid.log_scale for grid in block.grids], "lr": options.scale_rate},
        {"params": [weight.logits for weight in block.weights], "lr": options.rounding_rate},
    ]
    for bias in block.biases:
        size = float(bias.value.detach().abs().mean().clamp_min(1e-3))
        parameters.append({"params": [bias.value], "lr": options.bias_rate * size})
    return torch.optim.Adam([group for group in parameters if group["params"]])


def _undecided(block: Learnable, progress: float) -> torch.Tensor:
    if progress < _WARM_UP or not block.weights:
        return torch.zeros(())
    left = 1 - (progress - _WARM_UP) / (1 - _WARM_UP)
    sharpness = _SHARPEST + (_SOFTEST - _SHARPEST) * left
    return torch.stack([weight.undecided(sharpness) for weight in block.weights]).mean()
