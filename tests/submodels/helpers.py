"""A small elastic model, and how far two results are apart."""

from __future__ import annotations

import functools

import torch

from edgevit.graph.program import Program
from edgevit.submodels.elastic import elastic
from tests.pruning.patterns import learned, patterns


@functools.cache
def nested() -> Program:
    """A trained ViT of one block, nested by its hidden layer and its heads."""
    return elastic(learned(), patterns(64)[0].numpy(), roles=("hidden", "heads")).program


def logits(program: Program, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(program.run(images.numpy())[0])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
