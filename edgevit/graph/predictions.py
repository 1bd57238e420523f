"""What a Program predicts, and how far two predictions are apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from edgevit.graph.running import Override, Runner, batches


def predict(
    runner: Runner, images: torch.Tensor, overrides: Mapping[str, Override] | None = None
) -> torch.Tensor:
    """The first result for any number of images, without gradients.

    Args:
        runner: of a program of which it is the logits.
        images: (n, channels, height, width) float32.
        overrides: functions that stand for nodes' operators.

    Returns:
        (n, classes).
    """
    result = runner.results[0]
    with torch.no_grad():
        parts = [
            runner.run({runner.image: part}, [result], overrides=overrides)[result]
            for part in batches(images)
        ]
    return torch.cat(parts)


def divergence(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(reference || other) of the class probabilities over images, in nats.

    Args:
        reference: (n, classes) logits.
        logits: (n, classes), with or without gradients.
    """
    expected, found = reference.log_softmax(-1), logits.log_softmax(-1)
    return functional.kl_div(found, expected, reduction="batchmean", log_target=True)
