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
        origin: float32 (columns,), the first rows' mean, about which all are taken: the difference of two
            large numbers would say little about the small ones.
        sums: float64 (columns,).
        products: float64 (columns, columns), sums of outer products.
    """

    columns: int
    count: int = 0
    origin: torch.Tensor | None = None
    sums: torch.Tensor = field(init=False)
    products: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(self.columns, dtype=torch.float64)
        self.products = torch.zeros(self.columns, self.columns, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Count (n, columns) rows, float32."""
        if self.origin is None:
            self.origin = rows.mean(0)
        rows = rows - self.origin
        self.count += len(rows)
        self.sums += rows.sum(0, dtype=torch.float64)
        self.products += (rows.T @ rows).double()

    @property
    def covariance(self) -> torch.Tensor:
        """float64 (columns, columns), of the rows as all that there are."""
        mean = self.sums / self.count
        return self.products / self.count - torch.outer(mean, mean)


def rows_read(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """What a layer multiplies by its weight, one row for each time that it does.

    Args:
        layer: a linear layer or a convolution without groups.
        value: what it reads.

    Returns:
        (n, columns), of a convolution the channels outermost as in its weight; of more than 16,384 rows that
        many at most, evenly.
    """
    if layer.target is aten.linear.default:
        return _some(value.reshape(-1, value.shape[-1]))
    kernel = layer.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    return _some(_patches(layer, value, tuple(kernel)))


def outputs_made(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """What a layer gives, (n, channels), the rows that `rows_read` takes."""
    rows = value if layer.target is aten.linear.default else value.movedim(1, -1)
    return _some(rows.reshape(-1, rows.shape[-1]))


def _some(rows: torch.Tensor) -> torch.Tensor:
    return rows[:: -(-len(rows) // _ROWS)]


def _patches(layer: Node, value: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """(n, channels x kernel): every place that the kernel is put, row by row of each image."""
    rank = len(kernel)
    stride, padding = _geometry(layer, 3, 1, rank), _geometry(layer, 4, 0, rank)
    dilation = _geometry(layer, 5, 1, rank)
    if rank == 1:
        value = value.unsqueeze(2)
        kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
    found = torch.nn.functional.unfold(value, kernel, dilation=dilation, padding=padding, stride=stride)
    return found.transpose(1, 2).reshape(-1, found.shape[1])


def _geometry(layer: Node, place: int, default: int, rank: int) -> tuple[int, ...]:
    """A convolution's stride, padding or dilation in each dimension."""
    given: Any = layer.args[place] if len(layer.args) > place else [default]
    return tuple(given) * rank if len(given) == 1 else tuple(given)
