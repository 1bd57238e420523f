"""A floor for accuracy: layers get 16-bit activations or go back to float, the most sensitive first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from edgevit.graph.predictions import predict
from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.quant.calibration import Calibration
from edgevit.quant.insertion import Quantization, insert_quantizers
from edgevit.quant.levels import Levels, groups, without
from edgevit.quant.sensitivity import LayerSensitivity, changed
from edgevit.quant.widening import Widening, widened_layers


@dataclass(frozen=True)
class Floored:
    """A quantization that loses no more than it may.

    Attributes:
        quantization: what is left of the one given.
        widened: layers that read 16 bits now.
        kept_float: layers that went back to float, each with the reason.
        drop: what is lost, as `Floor.drop` measures it.
    """

    quantization: Quantization
    widened: tuple[str, ...]
    kept_float: Mapping[str, str]
    drop: float


@dataclass
class Floor:
    """What may be lost on calibration images, and what a quantization loses there.

    Attributes:
        program: the float program.
        calibration: with labels the drop is of accuracy.
        max_drop: points of accuracy, or percent of classes that change; None allows any.
        widening: tried before layers go back to float; None goes to float at once.
    """

    program: Program
    calibration: Calibration
    max_drop: float | None
    widening: Widening | None = None
    reference: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.reference = predict(Runner(self.program), self.calibration.images)

    def drop(self, quantization: Quantization) -> float:
        """Points of accuracy lost, or, without labels, percent of images whose class changes."""
        logits = predict(Runner(insert_quantizers(self.program, quantization)), self.calibration.images)
        labels = self.calibration.labels
        if labels is None:
            return changed(self.reference, logits)
        right = [float((found.argmax(-1) == labels).float().mean()) for found in (self.reference, logits)]
        return 100.0 * (right[0] - right[1])

    def holds(self, drop: float) -> bool:
        """Whether no more is lost than may be."""
        return self.max_drop is None or drop <= self.max_drop

    def meet(
        self,
        quantization: Quantization,
        sensitivity: Sequence[LayerSensitivity],
        gains: Mapping[str, float] | None = None,
    ) -> Floored:
        """Give layers more bits, the most sensitive first, until no more is lost than may be.

        To float goes none before all are on 16 bits.

        Args:
            quantization: to start from.
            sensitivity: of its layers.
            gains: milliseconds, above 0, that each of them saves: first go the layers that do the most
                damage for each.
        """
        ranked = sorted(
            (item for item in sensitivity if item.layer in quantization.weights),
            key=lambda item: -item.divergence / (gains[item.layer] if gains is not None else 1.0),
        )
        layers = [item.layer for item in ranked]
        drop, before = self.drop(quantization), quantization
        if self.widening is not None:
            quantization, drop = self._widened(self.widening, quantization, layers, drop)
        kept: dict[str, str] = {}
        for some, rest in _more_and_more(layers):
            if self.holds(drop) or not quantization.levels:
                break
            levels = dict(quantization.levels)
            for layer in some:
                levels = without(self.program.graph, levels, layer)
                kept[layer] = f"--max-drop {self.max_drop:g}"
            # With the last layer goes what computes on integers between them.
            quantization = _with_levels(self.program, quantization, levels if rest else {})
            drop = self.drop(quantization)
        found = () if quantization is before else widened_layers(self.program, quantization)
        return Floored(quantization, found, kept, drop)

    def _widened(
        self, widening: Widening, quantization: Quantization, layers: Sequence[str], drop: float
    ) -> tuple[Quantization, float]:
        """With as few layers on 16 bits as hold the floor, or with all, and what is lost then."""
        for some, rest in _more_and_more(layers):
            if self.holds(drop):
                break
            # With the last layer goes what computes on integers between them.
            quantization = widening.widen(quantization, some) if rest else widening.widen_all(quantization)
            drop = self.drop(quantization)
        return quantization, drop


def _more_and_more(names: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """One name, the next two, the next three and so on, each time with the rest; of none, nothing once."""
    start, count = 0, 1
    while start < max(1, len(names)):
        yield names[start : start + count], names[start + count :]
        start, count = start + count, count + 1


def _with_levels(program: Program, old: Quantization, levels: Levels) -> Quantization:
    """What was learned, for the layers that are still quantized."""
    needed = {name for group in groups(program.graph, levels) for name in group.values}
    return Quantization(
        levels,
        {name: grid for name, grid in old.activations.items() if name in needed},
        {name: weight for name, weight in old.weights.items() if name in levels},
        {name: bias for name, bias in old.biases.items() if name in levels},
        {name: grid for name, grid in old.narrow.items() if name in needed},
    )
