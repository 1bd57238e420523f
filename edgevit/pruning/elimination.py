"""In which order units go so that layers err least, each loss made up for by the units that stay.

The optimal brain surgeon (Hassibi and Stork, 1993) for whole units and least squares: of all units left, the
one goes whose loss, best compensated by the others, changes the outputs least; the weights and the inverse
covariance then are those of a layer without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Of the mean variance: what keeps the covariance of few or equal columns invertible.
_DAMPING = 1e-4
# In place of the unit of a column that is dropped.
_GONE = -2


@dataclass
class Reader:
    """A layer that reads the units, as many columns of each.

    Attributes:
        weight: float64 (outputs, columns), each row scaled so that squared errors can be added up.
        inverse: float64 (columns, columns), of the columns' covariance.
        units: int64 (columns,): the unit of each column, or -1.
    """

    weight: torch.Tensor
    inverse: torch.Tensor
    units: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, covariance: torch.Tensor, units: torch.Tensor) -> Reader:
        """A reader of columns with a covariance."""
        damping = _DAMPING * covariance.diagonal().mean().clamp_min(1e-12)
        damped = covariance + damping * torch.eye(len(covariance), dtype=torch.float64)
        return cls(weight.double().clone(), torch.linalg.inv(damped), units.clone())

    def losses(self, size: int) -> torch.Tensor:
        """float64 (size,): the squared error that the loss of each unit would add, 0 where it is gone."""
        found = torch.zeros(size, dtype=torch.float64)
        columns = (self.units >= 0).nonzero().flatten()
        units, order = self.units[columns].sort(stable=True)
        count = int((units == units[:1]).sum())
        if count == 1:
            # Nothing is copied that is large: this is what takes the time.
            found[units] = (self.weight.square().sum(0) / self.inverse.diagonal())[columns[order]]
        elif count:
            columns = columns[order].reshape(-1, count)
            weight = self.weight[:, columns].permute(1, 2, 0)
            inverse = self.inverse[columns[:, :, None], columns[:, None, :]]
            found[units[::count]] = (torch.linalg.solve(inverse, weight) * weight).sum((1, 2))
        return found

    def drop(self, unit: int) -> None:
        """Let the other units make up for one, and forget it."""
        gone = (self.units == unit).nonzero().flatten()
        row = self.inverse[gone]
        solved = torch.linalg.solve(row[:, gone], row)
        self.weight.addmm_(self.weight[:, gone], solved, alpha=-1)
        self.inverse.addmm_(row.T, solved, alpha=-1)
        self.units[gone] = _GONE
        # Its columns are zero now. To copy what is left each time would take longer than all else.
        stays = self.units != _GONE
        if stays.sum() < 0.8 * len(stays):
            self.weight, self.units = self.weight[:, stays], self.units[stays]
            self.inverse = self.inverse[stays][:, stays]


@dataclass(frozen=True)
class Elimination:
    """The units of an axis from the first that goes to the last.

    Attributes:
        order: all units.
        losses: (units,): the error when so many of them, and one more, are gone.
    """

    order: tuple[int, ...]
    losses: tuple[float, ...]

    def kept(self, count: int) -> list[int]:
        """The `count` units that stay, in ascending order."""
        return sorted(self.order[len(self.order) - count :])

    def loss(self, count: int) -> float:
        """The error when `count` units stay."""
        gone = len(self.order) - count
        return self.losses[gone - 1] if gone else 0.0


def eliminate(readers: Sequence[Reader], size: int) -> Elimination:
    """Take away unit after unit.

    Args:
        readers: every layer that reads them; changed.
        size: how many units there are.
    """
    order: list[int] = []
    losses: list[float] = []
    gone = torch.zeros(size, dtype=torch.bool)
    for _ in range(size):
        found = torch.stack([reader.losses(size) for reader in readers]).sum(0)
        unit = int(found.masked_fill(gone, torch.inf).argmin())
        losses.append((losses[-1] if losses else 0.0) + max(0.0, float(found[unit])))
        order.append(unit)
        gone[unit] = True
        for reader in readers:
            reader.drop(unit)
    return Elimination(tuple(order), tuple(losses))
