"""Views: what any chain of reshapes and transposes does to a tensor, as one reshape-transpose-reshape.

A tensor's elements are counted in row-major order. A chain of reshapes and transposes splits that count
into digits (*atoms*) and writes the digits in another order; however long it is, it comes down to

    shape --reshape--> atoms --transpose--> atoms in the new order --reshape--> new shape

and where the order is unchanged, to one reshape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A rearrangement of one source tensor.

    Attributes:
        atoms: sizes of the digits in the source's order, outermost first; their product is its size.
        order: which atom stands where in the result, outermost first.
        shape: the result's shape; every dimension is a run of atoms, one of size 1 an empty run.
    """

    atoms: Shape
    order: tuple[int, ...]
    shape: Shape

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """The source itself."""
        atoms = tuple(size for size in shape if size != 1)
        return cls(atoms, tuple(range(len(atoms))), tuple(shape))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """This view, reshaped; None where the new dimensions do not split along atoms.

        >>> View.of((4, 6)).transpose((1, 0)).reshape((2, 3, 4)).atoms
        (4, 2, 3)
        >>> View.of((4, 6)).transpose((1, 0)).reshape((4, 6)) is None
        True
        """
        if math.prod(shape) != math.prod(self.shape) or 0 in shape:
            return None
        view: View = View(self.atoms, self.order, tuple(shape))
        position = 0
        for wanted in shape:
            left = wanted
            while left > 1:
                atom = view.order[position]
                size = view.atoms[atom]
                if left % size:
                    if size % left:
                        return None
                    view, size = view._split(atom, left), left
                left //= size
                position += 1
        return view

    def transpose(self, permutation: Sequence[int]) -> View:
        """This view with its dimensions in the order of `permutation`."""
        runs = self._runs()
        order = tuple(atom for dimension in permutation for atom in runs[dimension])
        return View(self.atoms, order, tuple(self.shape[dimension] for dimension in permutation))

    def swap_last(self) -> View:
        """This view with its last two dimensions exchanged."""
        rank = len(self.shape)
        return self.transpose((*range(rank - 2), rank - 1, rank - 2))

    @property
    def moves(self) -> bool:
        """Whether any element changes its place in row-major order: a reshape does not do it."""
        return any(after != before + 1 for before, after in pairwise(self.order))

    def exchange(self) -> Move | None:
        """The view as one transpose of its own dimensions; None where one mixes the source's order."""
        runs = self._runs()
        if any(after != before + 1 for run in runs for before, after in pairwise(run)):
            return None
        by_source = sorted(range(len(runs)), key=lambda dimension: runs[dimension][:1])
        before = tuple(self.shape[dimension] for dimension in by_source)
        return Move(before, inverse(by_source))

    @property
    def rank(self) -> int:
        """Dimensions that a transpose needs to carry this view out."""
        return len(self.canonical()[0])

    def canonical(self) -> tuple[Shape, tuple[int, ...]]:
        """The coarsest atoms and their order: equal for two views exactly where the elements' order is.

        >>> View.of((2, 3, 4)).transpose((2, 0, 1)).canonical()
        ((6, 4), (1, 0))
        """
        place = {atom: position for position, atom in enumerate(self.order)}
        groups: list[list[int]] = []
        for atom in range(len(self.atoms)):
            if groups and place[atom] == place[atom - 1] + 1:
                groups[-1].append(atom)
            else:
                groups.append([atom])
        sizes = tuple(math.prod(self.atoms[atom] for atom in group) for group in groups)
        ranked = sorted(range(len(groups)), key=lambda index: place[groups[index][0]])
        return sizes, tuple(ranked)

    def _runs(self) -> list[tuple[int, ...]]:
        """The atoms of each dimension."""
        runs, position = [], 0
        for size in self.shape:
            start, product = position, 1
            while product < size:
                product *= self.atoms[self.order[position]]
                position += 1
            runs.append(self.order[start:position])
        return runs

    def _split(self, atom: int, outer: int) -> View:
        inner = self.atoms[atom] // outer
        atoms = (*self.atoms[:atom], outer, inner, *self.atoms[atom + 1 :])
        order: list[int] = []
        for index in self.order:
            order.extend([atom, atom + 1] if index == atom else [index + (index > atom)])
        return View(atoms, tuple(order), self.shape)


@dataclass(frozen=True)
class Move:
    """One reshape, one transpose: how a view is carried out.

    Attributes:
        before: the shape the source is reshaped to.
        permutation: of its dimensions.
    """

    before: Shape
    permutation: tuple[int, ...]

    @property
    def after(self) -> Shape:
        """The transpose's output shape."""
        return tuple(self.before[dimension] for dimension in self.permutation)


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes another."""
    return tuple(sorted(range(len(permutation)), key=lambda axis: permutation[axis]))


def move_of(view: View, source: Shape, *, rank_limit: int) -> Move:
    """The transpose that carries out a view, its input and output as near the wanted shapes as can be.

    The source's own shape is transposed where the view splits none of its dimensions, which saves the
    first reshape, and the view's shape comes out directly where it can, which saves the last.

    Args:
        view: what to carry out.
        source: the source's shape.
        rank_limit: most dimensions that a transpose may have, at least the view's `rank`.
    """
    sizes, order = view.canonical()
    own = _refined(sizes, order, source)
    if own is not None and len(source) <= rank_limit:
        return Move(source, _with_ones(source, own, view.shape))
    ones = sum(size == 1 for size in view.shape)
    if len(sizes) + ones <= rank_limit:
        before = (1,) * ones + sizes
        move = Move(before, _with_ones(before, [atom + ones for atom in order], view.shape))
        if move.after == view.shape:
            return move
    return Move(sizes, order)


def _refined(sizes: Shape, order: Sequence[int], source: Shape) -> list[int] | None:
    """The order of the source's dimensions above 1, where each lies within one canonical atom."""
    runs: list[list[int]] = []
    dimensions = iter([index for index, size in enumerate(source) if size != 1])
    for size in sizes:
        run: list[int] = []
        while math.prod(source[index] for index in run) < size:
            run.append(next(dimensions))
        if math.prod(source[index] for index in run) != size:
            return None
        runs.append(run)
    return [index for atom in order for index in runs[atom]]


def _with_ones(before: Shape, order: Sequence[int], wanted: Shape) -> tuple[int, ...]:
    """The order with the dimensions of size 1 put where they make the wanted shape, or else first."""
    ones = [index for index, size in enumerate(before) if size == 1]
    first = (*ones, *order)
    if sorted(before) != sorted(wanted):
        return first
    spare, moved = iter(ones), iter(order)
    placed = tuple(next(spare) if size == 1 else next(moved) for size in wanted)
    return placed if tuple(before[index] for index in placed) == wanted else first
