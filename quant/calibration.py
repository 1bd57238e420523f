"""Calibration images, and what about a model or its activations needs to be told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgevit.errors import EdgevitError
from edgevit.graph.program import Array, Program
from edgevit.graph.rewriting import module_path
from edgevit.graph.running import Runner
from edgevit.quant.observation import Observed
from edgevit.quant.operators import is_layer, weight_of

FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Calibration:
    """Prepared images that stand for what the model will see.

    Attributes:
        images: (n, channels, height, width) float32.
        labels: class indices, or None.
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def of(cls, program: Program, images: Array, labels: Sequence[int] | None = None) -> Calibration:
        """Check the images against the program.

        Raises:
            EdgevitError: when they are fewer than 8, of another shape, or not finite, have more or fewer
                labels, or the program is a stage of a model.
        """
        program.card.check_whole()
        if len(images) < FEWEST_IMAGES:
            raise EdgevitError(
                f"--calib: {len(images)} images are too few to learn ranges from; give at least "
                f"{FEWEST_IMAGES}, better 128 or more"
            )
        if tuple(images.shape[1:]) != program.card.preprocessing.input_shape:
            raise EdgevitError(
                f"--calib: images of shape {tuple(images.shape[1:])}; {program.card.name} takes "
                f"{program.card.preprocessing.input_shape}"
            )
        if not np.isfinite(images).all():
            raise EdgevitError("--calib: the prepared images hold NaN or infinite values")
        if labels is not None and len(labels) != len(images):
            raise EdgevitError(f"--calib: {len(images)} images and {len(labels)} labels; each image has one")
        if labels is not None and len(set(labels)) == 1:
            warnings.warn(
                f"--calib: all {len(images)} images are of class {labels[0]}; ranges learned from one class "
                "may not fit the others",
                stacklevel=2,
            )
        return cls(
            torch.from_numpy(np.ascontiguousarray(images)), None if labels is None else torch.tensor(labels)
        )

    def on(self, device: str) -> Calibration:
        """The same on a device; where it lies there already, without a copy."""
        labels = None if self.labels is None else self.labels.to(device)
        return Calibration(self.images.to(device), labels)


def check_weights(program: Program) -> tuple[str, ...]:
    """Look at every weight before anything is computed.

    Returns:
        Remarks: layers with channels that are zero everywhere, by name.

    Raises:
        EdgevitError: naming the first layer whose weight is not finite.
    """
    constants = Runner(program).constants
    remarks: list[str] = []
    for node in program.graph.nodes:
        if not is_layer(node):
            continue
        weight, name = constants[weight_of(node).name], module_path(node) or node.name
        if not bool(torch.isfinite(weight).all()):
            raise EdgevitError(
                f"{program.card.name}: the weight of {name} holds NaN or infinite values; "
                "capture the model again from sound weights"
            )
        dead = int((weight.flatten(1).abs().amax(dim=1) == 0).sum())
        if dead:
            remarks.append(f"{name}: {dead} of {len(weight)} output channels have only zero weights")
    return tuple(remarks)


def check_observed(program: Program, observed: Mapping[str, Observed]) -> tuple[str, ...]:
    """Look at every activation's range.

    Returns:
        Remarks: activations that are the same number on all images, by name.

    Raises:
        EdgevitError: naming the first activation that is not finite.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    remarks: list[str] = []
    for name, value in observed.items():
        where = module_path(nodes[name]) or name
        if not np.isfinite([value.low, value.high]).all():
            raise EdgevitError(
                f"{program.card.name}: the output of {where} is NaN or infinite on the calibration images"
            )
        if value.constant is not None and nodes[name].op == "call_function":
            remarks.append(f"{where}: its output is {value.constant:g} on every calibration image")
    return tuple(remarks)
