"""What is done to a batch of images so that a network does not learn them by heart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augmented(images: Tensor, *, flip: bool, crop_padding: int, generator: torch.Generator) -> Tensor:
    """Images mirrored and shifted at random.

    Args:
        images: (n, ..., height, width), normalised: the zeros around an image are the mean colour.
        flip: whether about half of them are mirrored left to right.
        crop_padding: pixels of zeros put on every side before a window of the old size is cut out; 0 for
            none.
        generator: on the processor, of what is drawn for each image.

    Returns:
        Images of the same shape, on the same device.
    """
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        mask = mirrored.to(images.device).view(-1, *(1,) * (images.ndim - 1))
        images = torch.where(mask, images.flip(-1), images)
    return _shifted(images, crop_padding, generator) if crop_padding else images


def _shifted(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    padded = functional.pad(images, (padding,) * 4)
    corners = torch.randint(2 * padding + 1, (len(images), 2), generator=generator).tolist()
    windows = [
        image[..., top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(windows)
