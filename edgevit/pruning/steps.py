"""What every training here has in common: the order of its examples, its rate, its optimiser, its labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgevit.errors import EdgevitError


class Distillation(Protocol):
    """How much of a loss a teacher has.

    Attributes:
        alpha: its share; the labels have the rest.
        temperature: what logits are divided by before they are compared.
    """

    @property
    def alpha(self) -> float:
        """See the class."""

    @property
    def temperature(self) -> float:
        """See the class."""


def rate(done: float, warm_up: float) -> float:
    """The learning rate as a share of its highest, when so much of all steps is done.

    >>> [round(rate(done, 0.2), 2) for done in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < warm_up:
        return done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def chunks_of(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The indices of so many images in random order, in batches; what does not fill one is left out.

    Fewer images than a batch are one smaller batch.
    """
    order = torch.randperm(count, generator=generator)
    for start in range(0, max(count - batch, 0) + 1, batch):
        yield order[start : start + batch]


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """What everything random in an epoch comes from: a run that goes on needs no other state."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def optimizer_of(parameters: list[torch.nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that lets vectors (biases, norms) be as large as they like; its rate is set for each step."""
    groups = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)


def loss_of(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    options: Distillation,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """By labels and, where there is a teacher, by its logits: see `edgevit.pruning.training.train`."""
    by_labels = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher is None:
        return by_labels
    by_teacher = distance(logits, teacher, options.temperature)
    return options.alpha * by_teacher + (1 - options.alpha) * by_labels


def distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)): its gradient is of the same size at each T."""
    student, target = (functional.log_softmax(values / temperature, dim=-1) for values in (logits, teacher))
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def check_options(options: object, limits: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse an option that does not hold.

    Args:
        options: what has them as attributes.
        limits: for each option whether it holds, and what would be right in words.

    Raises:
        EdgevitError: naming the first that does not.
    """
    for name, (holds, right) in limits.items():
        if not holds:
            raise EdgevitError(f"{name}: must be {right}, not {getattr(options, name)}")


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Refuse what is not one class for each of so many images.

    Raises:
        EdgevitError: naming the first that is none.
    """
    if tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        raise EdgevitError(
            f"labels: they are {tuple(labels.shape)} {labels.dtype}; one int64 for each of {count} images is "
            "needed"
        )
    wrong = torch.nonzero((labels < 0) | (labels >= classes)).flatten()
    if len(wrong):
        place = int(wrong[0])
        raise EdgevitError(
            f"labels: image {place} has the label {int(labels[place])}, which is not one of the {classes} "
            f"classes (0 to {classes - 1})"
        )
