"""Ridge regression of what a layer is to give on what it reads, the ridge chosen on rows held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

# One batch in so many decides which ridge, and whether any.
HELD_OUT = 4
# Images that run at once: so few that even 32 have batches that are held out.
BATCH = 8
# Of the mean variance of what is read: from hardly any ridge to one that leaves the weights as they are.
_RIDGES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
# Of the largest variance: what keeps dead columns from being divided by.
_LEAST = 1e-9


@dataclass(frozen=True)
class Compensated:
    """What became of one layer.

    Attributes:
        layer: node name.
        before: mean squared error of what it gives, relative to its variance, on images that are held out.
        after: the same with new weights.
        ridge: that was best, relative to the mean variance of what it reads; None where the old weights were.
    """

    layer: str
    before: float
    after: float
    ridge: float | None


@dataclass
class _Sums:
    """Sums over rows that are read and rows that are wanted."""

    count: int = 0
    read: Any = 0.0
    wanted: Any = 0.0
    read_read: Any = 0.0
    wanted_read: Any = 0.0
    wanted_squared: Any = 0.0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def narrowed(self, columns: torch.Tensor) -> _Sums:
        """The sums over some of the columns that are read."""
        return _Sums(
            self.count,
            self.read[columns],
            self.wanted,
            self.read_read[columns][:, columns],
            self.wanted_read[:, columns],
            self.wanted_squared,
        )

    def centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Covariances of what is read, of it with what is wanted, and variances of this."""
        read, wanted = self.read / self.count, self.wanted / self.count
        return (
            self.read_read / self.count - torch.outer(read, read),
            self.wanted_read / self.count - torch.outer(wanted, read),
            self.wanted_squared / self.count - wanted.square(),
        )


@dataclass
class Regression:
    """The regression of one layer.

    Attributes:
        name: of the layer.
        weight: (outputs, inputs, ...); after `solve` the new one.
        bias: (outputs,) or None; likewise.
        result: what came of it.
        sums: of rows that are fitted to, and of those that are held out, about `origins`.
        origins: the first rows' means; about them float32 is exact enough.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    result: Compensated = field(init=False)
    sums: list[_Sums] = field(default_factory=lambda: [_Sums(), _Sums()])
    origins: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, read: torch.Tensor, wanted: torch.Tensor, *, held_out: bool) -> None:
        """Count rows.

        Args:
            read: (n, columns).
            wanted: (n, outputs).
            held_out: whether they decide which ridge.
        """
        if self.origins is None:
            self.origins = read.mean(0), wanted.mean(0)
        read, wanted = read - self.origins[0], wanted - self.origins[1]
        self.sums[held_out] += _Sums(
            len(read),
            read.double().sum(0),
            wanted.double().sum(0),
            (read.T @ read).double(),
            (wanted.T @ read).double(),
            wanted.double().square().sum(0),
        )

    def narrowed(self, channels: torch.Tensor) -> Regression:
        """The regression of the same layer when it reads some channels alone; what was counted stays.

        Args:
            channels: bool, for each channel that the weight reads whether it stays.
        """
        columns = channels.repeat_interleave(self.weight[0, 0].numel())
        origins = self.origins and (self.origins[0][columns], self.origins[1])
        sums = [part.narrowed(columns) for part in self.sums]
        return Regression(self.name, self.weight[:, channels], self.bias, sums=sums, origins=origins)

    @property
    def mean_wanted(self) -> torch.Tensor:
        """(outputs,), over all rows: the best of what reads nothing."""
        fitted, held_out = self.sums
        return self._means(fitted + held_out)[1].to(self.weight.dtype)

    def solve(self) -> None:
        """Find the best weight and bias."""
        start = self.weight.flatten(1).double()
        fitted, held_out = self.sums
        scale = float(self._moments(held_out)[2].sum().clamp_min(1e-30))
        before = self._error(start, self.bias, held_out) / scale
        best, ridge = before, None
        for tried in _RIDGES:
            error = self._error(*self._ridge(start, fitted, tried), held_out) / scale
            if error < best:
                best, ridge = error, tried
        self.result = Compensated(self.name, before, best, ridge)
        if ridge is not None:
            weight, self.bias = self._ridge(start, fitted + held_out, ridge)
            self.weight = weight.reshape(self.weight.shape).to(self.weight.dtype)

    def _means(self, sums: _Sums) -> tuple[torch.Tensor, torch.Tensor]:
        """float64, of what is read and of what is wanted."""
        read, wanted = self.origins or (0.0, 0.0)
        return sums.read / sums.count + read, sums.wanted / sums.count + wanted

    def _moments(self, sums: _Sums) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """About the mean, which a bias takes care of, or else about zero."""
        found = sums.centred()
        if self.bias is not None:
            return found
        read, wanted = self._means(sums)
        return found[0] + torch.outer(read, read), found[1] + torch.outer(wanted, read), found[2] + wanted**2

    def _ridge(
        self, start: torch.Tensor, sums: _Sums, ridge: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight, float64, and bias of the least error on some rows."""
        read, cross, _ = self._moments(sums)
        least = float((_LEAST * read.diagonal().max()).clamp_min(1e-30))
        damped = read + (ridge * read.diagonal()).clamp_min(least).diag()
        weight = start + torch.linalg.solve(damped, (cross - start @ read).T).T
        if self.bias is None:
            return weight, None
        mean_read, mean_wanted = self._means(sums)
        return weight, (mean_wanted - weight @ mean_read).to(self.bias.dtype)

    def _error(self, weight: torch.Tensor, bias: torch.Tensor | None, sums: _Sums) -> float:
        """Mean squared error on some rows, summed over outputs."""
        read, cross, wanted = self._moments(sums)
        error = (wanted - 2 * (weight * cross).sum(1) + (weight @ read * weight).sum(1)).sum()
        if bias is not None:
            mean_read, mean_wanted = self._means(sums)
            error = error + (weight @ mean_read - mean_wanted + bias).square().sum()
        return max(0.0, float(error))
