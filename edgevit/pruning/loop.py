"""What every training does: epochs of steps, a rate that rises and falls, a checkpoint after each epoch."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from edgevit.errors import EdgevitError, closest
from edgevit.graph.checkpoint import Checkpoint
from edgevit.progress import track
from edgevit.pruning.augmentation import augmented
from edgevit.pruning.checkpoint import Parameters, Progress, go_on, keep
from edgevit.pruning.steps import check_options, chunks_of, generator_of, optimizer_of, rate

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingOptions:
    """How a Program is trained.

    Attributes:
        epochs: passes over the images; with 0 nothing is trained.
        batch: images in a step.
        lr: learning rate of AdamW at its highest.
        weight_decay: of weights; biases, norms and other vectors have none.
        warm_up: share of the steps in which the rate rises to `lr`; then it falls to 0 as a cosine does.
        alpha: share that the teacher has of the loss, where there is one; the labels have the rest.
        beta: weight of the loss of features, where the teacher's are given.
        gamma: weight of the loss of what the teacher's classifier answers to them, where it is given.
        temperature: what the logits of teacher and student are divided by before they are compared.
        label_smoothing: share of a label that is spread over all classes.
        clip: largest norm of the gradient of all parameters together; larger ones are scaled down.
        flip: whether half of the images, chosen anew each time, are mirrored left to right.
        crop_padding: pixels of zeros put around each image before a window of its size is cut out at random;
            0 leaves images where they are.
        precision: of the arithmetic, "float32" or "bfloat16" where torch thinks it safe; weights are float32.
        seed: of the order of the images and of what is done to them.

    Raises:
        EdgevitError: naming the first that cannot be.
    """

    epochs: int = 10
    batch: int = 64
    lr: float = 1e-4
    weight_decay: float = 0.05
    warm_up: float = 0.1
    alpha: float = 0.5
    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 2.0
    label_smoothing: float = 0.0
    clip: float = 1.0
    flip: bool = False
    crop_padding: int = 0
    precision: Precision = "float32"
    seed: int = 0

    @property
    def changes(self) -> bool:
        """Whether images are changed at random, and learned from."""
        return self.epochs > 0 and (self.flip or self.crop_padding > 0)

    def __post_init__(self) -> None:
        limits = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (0 < self.lr <= 1, "above 0 and at most 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "warm_up": (0 <= self.warm_up < 1, "at least 0 and below 1"),
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "beta": (0 <= self.beta < math.inf, "at least 0"),
            "gamma": (0 <= self.gamma < math.inf, "at least 0"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "clip": (self.clip > 0, "above 0"),
            "crop_padding": (self.crop_padding >= 0, "at least 0"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        check_options(self, limits)
        if self.precision not in get_args(Precision):
            known = closest(self.precision, get_args(Precision))
            raise EdgevitError(f"precision: {self.precision!r} is unknown; {known}")


class Loop:
    """Parameters that are learned by gradient descent; what the loss is, says `loss`.

    Args:
        learned: by their paths.
        count: of examples.
        options: rates and lengths.
    """

    def __init__(self, learned: Parameters, count: int, options: TrainingOptions) -> None:
        self._learned, self._count, self._options = learned, count, options
        self._optimizer = optimizer_of(list(learned.values()), options.weight_decay)

    def loss(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of some examples.

        Args:
            chosen: their indices.
            generator: of what is drawn by chance.
        """
        raise NotImplementedError

    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images as the options say that they are to be changed."""
        options = self._options
        return augmented(images, flip=options.flip, crop_padding=options.crop_padding, generator=generator)

    def arithmetic(self, torch_device: str) -> AbstractContextManager[object]:
        """What a graph runs in, to have the precision that the options say."""
        narrow = self._options.precision == "bfloat16"
        return torch.autocast(torch_device, torch.bfloat16, enabled=narrow)

    def run(self, checkpoint: Checkpoint | None) -> Progress:
        """Train to the end, from where the checkpoint stands."""
        progress = Progress() if checkpoint is None else go_on(checkpoint, self._learned, self._optimizer)
        for epoch in range(len(progress.losses), self._options.epochs):
            started = time.monotonic()
            loss = self._epoch(epoch)
            seconds = progress.seconds + time.monotonic() - started
            progress = Progress((*progress.losses, loss), seconds)
            if checkpoint is not None:
                keep(checkpoint, self._learned, self._optimizer, progress)
        return progress

    def _epoch(self, epoch: int) -> float:
        """One pass over the images; returns the mean loss."""
        options = self._options
        generator = generator_of(options.seed, epoch)
        chunks = list(chunks_of(self._count, options.batch, generator))
        losses = []
        for index, chosen in enumerate(track(chunks, f"epoch {epoch + 1} of {options.epochs}", len(chunks))):
            # Of the steps and one more: neither the first nor the last is wasted at a rate of 0.
            done = (epoch * len(chunks) + index + 1) / (options.epochs * len(chunks) + 1)
            losses.append(self._step(chosen, generator, options.lr * rate(done, options.warm_up)))
        loss = float(torch.stack(losses).mean())
        finite = all(bool(torch.isfinite(value).all()) for value in self._learned.values())
        if not (math.isfinite(loss) and finite):
            raise EdgevitError(
                f"lr: in epoch {epoch + 1} the loss was no number any more (NaN or infinity); "
                f"take a learning rate below {options.lr:g}, or images that are less large"
            )
        return loss

    def _step(self, chosen: Tensor, generator: torch.Generator, lr: float) -> Tensor:
        loss = self.loss(chosen, generator)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._learned.values(), self._options.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return loss.detach()
