"""What layers read, as far as least squares need it: means and covariances of their columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

# Rows that a batch adds at most: a convolution reads each pixel many times over.
_ROWS = 16_384


@dataclass
class Moments:
    """First and second moments of rows, gathered batch by batch.

    Attributes:
        columns: of a row.
        count: of rows.
        sums: float64 (columns,).
        products: float64 (columns, columns), sums of outer products.
    """

    columns: int
    count: int = 0
    sums: torch.Tensor = field(init=False)
    products: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(self.columns, dtype=torch.float64)
        self.products = torch.zeros(self.columns, self.columns, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Count (n, columns) rows."""
        self.count += len(rows)
        self.sums += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()

    @property
    def mean(self) -> torch.Tensor:
        """float64 (columns,)."""
        return self.sums / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """float64 (columns, columns)."""
        return self.products / self.count - torch.outer(self.mean, self.mean)


def rows_read(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies by its weight, one row for each time that it does.

    Args:
        layer: a linear layer or a convolution without groups.
        value: what it reads.

    Returns:
        (n, columns), of a convolution the channels outermost as in its weight; of many rows some, evenly.
    """
    if layer.target is aten.linear.default:
        rows = value.reshape(-1, value.shape[-1])
        return rows[:: max(1, len(rows) // _ROWS)]
    kernel = layer.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    return _patches(layer, value, tuple(kernel))


def outputs_made(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """What a layer gives, (n, channels), the rows that `rows_read` takes."""
    last = layer.target is aten.linear.default
    rows = value.reshape(-1, value.shape[-1]) if last else value.movedim(1, -1).reshape(-1, value.shape[1])
    return rows[:: max(1, len(rows) // _ROWS)]


def _patches(layer: Node, value: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    rank = len(kernel)
    stride, padding = _geometry(layer, 3, 1, rank), _geometry(layer, 4, 0, rank)
    dilation = _geometry(layer, 5, 1, rank)
    if rank == 1:
        value = value.unsqueeze(2)
        kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
    found = torch.nn.functional.unfold(value, kernel, dilation=dilation, padding=padding, stride=stride)
    rows = found.transpose(1, 2).reshape(-1, found.shape[1])
    return rows[:: max(1, len(rows) // _ROWS)]


def _geometry(layer: Node, place: int, default: int, rank: int) -> tuple[int, ...]:
    given: Any = layer.args[place] if len(layer.args) > place else [default]
    return tuple(given) * rank if len(given) == 1 else tuple(given)
