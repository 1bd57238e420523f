"""A floor for accuracy: layers go back to float, the most sensitive first, until it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from edgevit.graph.program import Program
from edgevit.quant.calibration import Calibration
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import Levels, groups, without
from edgevit.quant.running import Runner, batches
from edgevit.quant.sensitivity import LayerSensitivity, changed


@dataclass(frozen=True)
class Floored:
    """A quantization that loses no more than it may.

    Attributes:
        quantization: what is left of the one given.
        kept_float: layers that went back to float, each with the reason.
        drop: what is lost, as `Floor.drop` measures it.
    """

    quantization: Quantization
    kept_float: Mapping[str, str]
    drop: float


@dataclass
class Floor:
    """What may be lost on calibration images, and what a quantization loses there.

    Attributes:
        program: the float program.
        calibration: with labels the drop is of accuracy.
        max_drop: points of accuracy, or percent of classes that change; None allows any.
    """

    program: Program
    calibration: Calibration
    max_drop: float | None
    reference: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.reference = _predict(self.program, self.calibration.images)

    def drop(self, quantization: Quantization) -> float:
        """Points of accuracy lost, or, without labels, percent of images whose class changes."""
        logits = _predict(insert_quantizers(self.program, quantization), self.calibration.images)
        labels = self.calibration.labels
        if labels is None:
            return changed(self.reference, logits)
        right = [float((found.argmax(-1) == labels).float().mean()) for found in (self.reference, logits)]
        return 100.0 * (right[0] - right[1])

    def meet(self, quantization: Quantization, sensitivity: Sequence[LayerSensitivity]) -> Floored:
        """Let layers go back to float, the most sensitive first, until no more is lost than may be."""
        waiting = sorted(
            (item for item in sensitivity if item.layer in quantization.weights),
            key=lambda item: -item.divergence,
        )
        kept: dict[str, str] = {}
        drop, step = self.drop(quantization), 1
        while self.max_drop is not None and drop > self.max_drop and quantization.levels:
            levels = dict(quantization.levels)
            for item in waiting[:step]:
                levels = without(self.program.graph, levels, item.layer)
                kept[item.layer] = f"--max-drop {self.max_drop:g}"
            waiting, step = waiting[step:], step + 1
            # With the last layer goes what computes on integers between them.
            quantization = _with_levels(self.program, quantization, levels if waiting else {})
            drop = self.drop(quantization)
        return Floored(quantization, kept, drop)


def _with_levels(program: Program, old: Quantization, levels: Levels) -> Quantization:
    """What was learned, for the layers that are still quantized."""
    needed = {name for group in groups(program.graph, levels) for name in group.values}
    return Quantization(
        levels,
        {name: grid for name, grid in old.activations.items() if name in needed},
        {name: weight for name, weight in old.weights.items() if name in levels},
        {name: bias for name, bias in old.biases.items() if name in levels},
    )


def _predict(program: Program, images: torch.Tensor) -> torch.Tensor:
    runner = Runner(program)
    result = runner.results[0]
    with torch.no_grad():
        parts = [runner.run({runner.image: part}, [result])[result] for part in batches(images)]
    return torch.cat(parts)
