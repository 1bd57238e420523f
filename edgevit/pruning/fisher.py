"""How much the predictions change with what passes through the graph: squared gradients, by images.

To second order, the divergence of the predictions is half their Fisher information's quadratic form with a
change. Its diagonal is the mean square of the gradients that `edgevit.graph.information.backward` gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from edgevit.graph.information import backward
from edgevit.graph.program import Program
from edgevit.graph.running import Runner

# Whatever tells gates apart.
Name = TypeVar("Name", bound=Hashable)
_Values = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Gate:
    """A factor of one on each group of a value's channels.

    Attributes:
        value: the name of the value.
        place: its dimension of channels.
        units: int64 (channels,): the group of each, or -1.
        batch: its dimension of images; windows that are folded into it lie within each image. None where it
            is the same for all images.
    """

    value: str
    place: int
    units: torch.Tensor
    batch: int | None = 0


def channel_information(
    program: Program, places: Mapping[str, int], images: torch.Tensor, *, seed: int
) -> dict[str, torch.Tensor]:
    """For some values, how much an error of each channel matters.

    Args:
        program: of which the first result are logits.
        places: for the name of each value the dimension of its channels.
        images: (n, channels, height, width) float32.
        seed: of the classes that are drawn.

    Returns:
        float64 (channels,): the diagonal of the Fisher information, summed over positions, averaged over
        images. Half of it times an error's mean square is its divergence in nats. What has no influence on
        the logits is missing.
    """
    totals: dict[str, torch.Tensor] = {}

    def look(_: int, values: _Values) -> None:
        for name, (_value, gradient) in values.items():
            squares = gradient.movedim(places[name], 0).flatten(1).double().square().sum(1)
            totals[name] = totals.get(name, torch.zeros_like(squares)) + squares

    backward(Runner(program), list(places), images, look, seed=seed)
    return {name: total / len(images) for name, total in totals.items()}


def gate_information(
    program: Program, gates: Mapping[Name, Gate], images: torch.Tensor, *, seed: int
) -> dict[Name, torch.Tensor]:
    """For groups of channels, how much it matters to scale each of them; half of it is what its loss costs.

    Args:
        program: of which the first result are logits.
        gates: each under any name.
        images: (n, channels, height, width) float32.
        seed: of the classes that are drawn.

    Returns:
        float64 (groups,) for each name.
    """
    totals = {
        name: torch.zeros(int(gate.units.max()) + 1, dtype=torch.float64) for name, gate in gates.items()
    }

    def look(count: int, values: _Values) -> None:
        for name, gate in gates.items():
            if gate.value in values:
                totals[name] += _derivatives(gate, count, *values[gate.value]).square().sum(0)

    backward(Runner(program), sorted({gate.value for gate in gates.values()}), images, look, seed=seed)
    return {name: total / len(images) for name, total in totals.items()}


def _derivatives(gate: Gate, count: int, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """float64 (images, groups): of each image's log-likelihood by the factor on each group.

    Where all images share the value, it is of the sum of their log-likelihoods: these have no mean, and the
    square of their sum is to be expected to be the sum of their squares.
    """
    passing = (gradient * value).double()
    if gate.batch is None:
        count, passing = 1, passing.movedim(gate.place, -1)
    else:
        passing = passing.movedim((gate.batch, gate.place), (0, -1))
    by_channel = passing.reshape(count, -1, len(gate.units)).sum(1)
    inside = gate.units >= 0
    found = torch.zeros(count, int(gate.units.max()) + 1, dtype=torch.float64)
    return found.index_add_(1, gate.units[inside], by_channel[:, inside])
