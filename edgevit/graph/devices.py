"""Where torch computes: a program, its images and everything made on the way lie on one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export.passes import move_to_device_pass

from edgevit.errors import EdgevitError, closest
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor

DEVICES = ("cpu", "cuda")


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        EdgevitError: saying which are.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EdgevitError("--torch-device cuda: torch sees no CUDA device here; use cpu")
    if device not in DEVICES:
        raise EdgevitError(f"--torch-device: {device!r} is unknown; {closest(device, DEVICES)}")


@contextmanager
def on(device: str) -> Iterator[None]:
    """Every tensor made inside lies on the device.

    Raises:
        EdgevitError: when it is not here.
    """
    check_device(device)
    with torch.device(device):
        yield


def moved(program: Program, device: str) -> Program:
    """The program with its weights, and what its graph makes by itself, on a device; no step for its card."""
    # Torch's pass changes what it is given.
    copied = Editor(program).finish("move").exported
    return Program(move_to_device_pass(copied, device), program.card)
