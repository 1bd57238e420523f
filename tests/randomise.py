"""Random weights that leave no branch silent, so that a parity test sees all of a network."""

from __future__ import annotations

import math

import torch
from torch import nn


def randomise(module: nn.Module, image: torch.Tensor, seed: int = 0) -> nn.Module:
    """Give every parameter and every running statistic a value that lets the image through.

    Fresh models hide what a parity test should see: LayerScale starts at 1e-5, the last normalisation
    of a branch at 0, and matrices so small that after some blocks the logits no longer depend on the
    image. Matrices and kernels get the variance that keeps a signal's size (He et al. 2015), scales
    lie around 1, biases are small, and the running statistics of batch normalisation are those of
    `image`, so that values stay in a trained model's range. Position embeddings and tables are kept.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if sum(size > 1 for size in parameter.shape) <= 1:
                uniform(parameter, *((-0.2, 0.2) if kind == "bias" else (0.5, 1.5)))
            elif kind == "weight":
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * math.sqrt(1.5 / parameter[0].numel()))
        _collect_statistics(module, image)
    return module.eval()


def _collect_statistics(module: nn.Module, image: torch.Tensor) -> None:
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        module(image)
