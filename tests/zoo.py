"""The models the toolkit must be able to take in: seeded random weights, structure as published.

``MODELS[name]()`` gives ``(module, input_shape)``; the module takes one float32 tensor of that shape with a
batch in front and returns logits. timm's models keep their width and depth; transformers' are built from
small configurations in which every kind of block still occurs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgevit.graph.torchvision_shim import make_torchvision_importable
from tests.models.mobile_former import MobileFormer

Built = tuple[nn.Module, tuple[int, ...]]

NUM_CLASSES = 10
SEED = 0

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What a residual branch is multiplied by, under the names that timm and transformers give it.
_BRANCH_SCALES = ("gamma", "gamma_1", "gamma_2", "lambda1", "lambda_1", "lambda_2", "layer_scale")


def rerandomise(module: nn.Module, seed: int = SEED) -> nn.Module:
    """Give every parameter and statistic a random value that lets each branch and each input be seen.

    Untrained, a residual branch is multiplied by 0 (batch norm) or 1e-5 (LayerScale), biases are 0 and
    batch norm does nothing: two graphs that differ inside a branch would agree. And with the usual weights
    of 0.02 an image dies out on its way: biases alone make the logits. Branch scales and norm weights
    become U(0.5, 1.5), norm statistics random, constant parameters small normal values, and the weights
    of linear layers and convolutions normal with the variance that keeps their input's.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if name.startswith(_BRANCH_SCALES) or (isinstance(part, _NORMS) and name == "weight"):
                    parameter.uniform_(0.5, 1.5, generator=generator)
                elif isinstance(part, _LAYERS) and name == "weight":
                    parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
                elif parameter.unique().numel() == 1:
                    parameter.normal_(0, 0.1, generator=generator)
            if isinstance(getattr(part, "running_var", None), torch.Tensor):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
    return module


def settle(module: nn.Module, inputs: torch.Tensor, seed: int = SEED) -> nn.Module:
    """Give batch norms the statistics of what they see for `inputs`, each a random bit off.

    With statistics that have nothing to do with their input, dozens of batch norms in a row let values
    vanish or explode. The variance is taken about zero: about the mean, a channel that hardly varies would
    have its rounding errors scaled up (LeViT then differs from itself in float64 by 2e-4).
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [
        part for part in module.modules() if isinstance(getattr(part, "running_var", None), torch.Tensor)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        module(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            spread = torch.empty_like(norm.running_var)
            norm.running_var += norm.running_mean**2
            norm.running_mean += norm.running_var.sqrt() * spread.normal_(0, 0.1, generator=generator)
            norm.running_var *= spread.uniform_(0.8, 1.25, generator=generator)
    return module.eval()


class LogitsOnly(nn.Module):
    """A transformers classifier as a function from one tensor to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixels).logits


def _timm(name: str, size: int, **options: Any) -> Built:
    make_torchvision_importable()
    import timm

    return _finished(lambda: timm.create_model(name, num_classes=NUM_CLASSES, **options), (3, size, size))


def _hf(family: str, shape: tuple[int, ...], task: str = "ImageClassification", **config: Any) -> Built:
    make_torchvision_importable()
    import transformers

    settings = getattr(transformers, f"{family}Config")(num_labels=NUM_CLASSES, **config)
    model = getattr(transformers, f"{family}For{task}")
    return _finished(lambda: LogitsOnly(model(settings)), shape)


def _finished(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Built:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = rerandomise(build()).eval()
    return settle(module, example(shape, 8)), shape


def _mobile_former() -> Built:
    return _finished(lambda: MobileFormer(NUM_CLASSES), (3, 64, 64))


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VIDEO = {"image_size": 32, "num_frames": 4, **_SMALL}

# The ten models whose float exports are compared across targets.
TIMM: dict[str, Callable[[], Built]] = {
    "deit_tiny": functools.partial(_timm, "deit_tiny_patch16_224", 64, img_size=64),
    "mobilevit_xxs": functools.partial(_timm, "mobilevit_xxs", 64),
    "mobilevitv2_050": functools.partial(_timm, "mobilevitv2_050", 64),
    "efficientformer_l1": functools.partial(_timm, "efficientformer_l1", 224),
    "efficientformerv2_s0": functools.partial(_timm, "efficientformerv2_s0", 64, img_size=64),
    "levit_128s": functools.partial(_timm, "levit_128s", 128, img_size=128),
    "edgenext_xxs": functools.partial(_timm, "edgenext_xx_small", 64),
    "fastvit_t8": functools.partial(_timm, "fastvit_t8", 64),
    "tiny_vit_5m": functools.partial(_timm, "tiny_vit_5m_224", 224),
    "swin_tiny": functools.partial(_timm, "swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4),
}

# Architectures of the papers the toolkit is built on, by what breaks converters in them.
HYBRIDS: dict[str, Callable[[], Built]] = {
    "tnt": functools.partial(_timm, "tnt_s_legacy_patch16_224", 64, img_size=64),
    "crossvit": functools.partial(_timm, "crossvit_tiny_240", 240),
    "mobile_former": _mobile_former,
    "hf_mobilevit": functools.partial(
        _hf,
        "MobileViT",
        (3, 64, 64),
        image_size=64,
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 96],
    ),
    "hf_mobilevitv2": functools.partial(
        _hf, "MobileViTV2", (3, 64, 64), image_size=64, width_multiplier=0.5, n_attn_blocks=[1, 1, 1]
    ),
    "hf_levit": functools.partial(
        _hf,
        "Levit",
        (3, 64, 64),
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
    ),
    "hf_cvt": functools.partial(
        _hf, "Cvt", (3, 64, 64), embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]
    ),
    "hf_dinov2": functools.partial(
        _hf,
        "Dinov2",
        (3, 56, 56),
        image_size=70,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
    "hf_swin": functools.partial(
        _hf,
        "Swin",
        (3, 64, 64),
        image_size=64,
        window_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
    ),
    "hf_pvtv2": functools.partial(
        _hf,
        "PvtV2",
        (3, 64, 64),
        image_size=64,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 40, 64],
    ),
    "hf_swiftformer": functools.partial(
        _hf, "SwiftFormer", (3, 64, 64), depths=[1, 1, 1, 1], embed_dims=[16, 24, 32, 48]
    ),
}

# Video classifiers: (frames, 3, height, width).
VIDEO: dict[str, Callable[[], Built]] = {
    "videomae": functools.partial(
        _hf, "VideoMAE", (4, 3, 32, 32), "VideoClassification", patch_size=8, **_VIDEO
    ),
    "vivit": functools.partial(
        _hf, "Vivit", (4, 3, 32, 32), "VideoClassification", tubelet_size=[2, 8, 8], **_VIDEO
    ),
    "timesformer": functools.partial(
        _hf, "Timesformer", (4, 3, 32, 32), "VideoClassification", patch_size=8, **_VIDEO
    ),
}

MODELS: dict[str, Callable[[], Built]] = {**TIMM, **HYBRIDS, **VIDEO}


def example(shape: tuple[int, ...], batch: int = 2, seed: int = SEED) -> torch.Tensor:
    """A seeded, normally distributed input of the given shape."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, math.prod(shape), generator=generator)
    return noise.view(batch, *shape)
