"""The algebra of tensor dimensions: which are one and the same, and what they are made of.

A dimension is one of three things: whole, a product of dimensions (in row-major order, as a reshape merges
them), or a sum (end to end, as a concatenation lays them). All begin whole, and what they are made of becomes
known as the operators of a graph say which dimensions are the same: a whole one then takes the form of the
other, and two products or sums are divided further until they have parts in common.

Where two forms cannot be brought together, all that they are made of is fixed: it keeps its size, which is
always safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch

Form = Literal["whole", "product", "sum"]


class Dim:
    """A dimension of a tensor, or a part of one; equal only to itself.

    Attributes:
        size: how many indices it has.
        same_as: another that stands for it; None for a root, to which alone what follows belongs.
        own_form: of a root: see `form`.
        own_parts: of a root: see `parts`.
        own_reason: of a root: see `fixed`.
    """

    __slots__ = ("own_form", "own_parts", "own_reason", "same_as", "size")

    def __init__(self, size: int, *, fixed: str | None = None) -> None:
        self.size = size
        self.same_as: Dim | None = None
        self.own_form: Form = "whole"
        self.own_parts: tuple[Dim, ...] = ()
        self.own_reason = fixed

    def __repr__(self) -> str:
        """As a formula: products with stars, sums with pluses, what is fixed with an exclamation mark."""
        root = self.root
        if root.own_form == "whole":
            return f"{root.size}{'!' if root.own_reason else ''}"
        return f"({('*' if root.own_form == 'product' else '+').join(map(repr, root.own_parts))})"

    @property
    def root(self) -> Dim:
        """The one that stands for all that are the same."""
        root = self
        while root.same_as is not None:
            root = root.same_as
        if root is not self:
            self.same_as = root
        return root

    @property
    def form(self) -> Form:
        """What it is made of, as far as is known."""
        return self.root.own_form

    @property
    def parts(self) -> tuple[Dim, ...]:
        """Of a product the factors, outermost first; of a sum the terms in order; none of a whole one."""
        return tuple(part.root for part in self.root.own_parts)

    @property
    def fixed(self) -> str | None:
        """Why a whole one keeps its size; None where it may be sliced, and of a product or sum."""
        return self.root.own_reason

    def leaves(self) -> Iterator[Dim]:
        """The whole dimensions that it is made of, repeated as often as they occur."""
        if self.form == "whole":
            yield self.root
        for part in self.parts:
            yield from part.leaves()

    def fix(self, reason: str) -> None:
        """Keep the size of everything it is made of."""
        for leaf in self.leaves():
            leaf.own_reason = leaf.own_reason or reason

    def left(self, choices: Mapping[Dim, torch.Tensor]) -> int:
        """How many indices are left of it: the length of `kept`."""
        if self.form == "whole":
            return len(choices[self.root]) if self.root in choices else self.size
        parts = [part.left(choices) for part in self.parts]
        return math.prod(parts) if self.form == "product" else sum(parts)

    def kept(self, choices: Mapping[Dim, torch.Tensor]) -> torch.Tensor:
        """The indices that are left of it.

        Args:
            choices: for whole dimensions the indices to keep, int64 (kept,); all of any other.

        Returns:
            int64 (kept,), in ascending order where the choices are.
        """
        if self.form == "whole":
            return choices.get(self.root, torch.arange(self.size))
        if self.form == "product":
            found = torch.zeros(1, dtype=torch.int64)
            for part in self.parts:
                found = (found[:, None] * part.size + part.kept(choices)).flatten()
            return found
        offset, terms = 0, []
        for part in self.parts:
            terms.append(part.kept(choices) + offset)
            offset += part.size
        return torch.cat(terms)

    def index_of(self, leaf: Dim) -> torch.Tensor:
        """Which index of a whole dimension each of its own has.

        Args:
            leaf: one that it is made of; where it occurs twice in a product, the inner one counts.

        Returns:
            int64 (size,), -1 where the leaf is no part of it.
        """
        if self.form == "whole":
            return torch.arange(self.size) if self.root is leaf.root else torch.full((self.size,), -1)
        if self.form == "sum":
            return torch.cat([part.index_of(leaf) for part in self.parts])
        found = torch.full((1,), -1)
        for part in self.parts:
            inner = part.index_of(leaf)
            found = torch.where(inner >= 0, inner, found[:, None]).flatten()
        return found

    def become(self, form: Form, parts: Sequence[Dim]) -> None:
        """Take a form; what was fixed stays fixed."""
        fixed, self.own_reason = self.own_reason, None
        self.own_form, self.own_parts = form, tuple(parts)
        if fixed:
            self.fix(fixed)


def product(dims: Sequence[Dim]) -> Dim:
    """Dimensions merged into one, the outermost first."""
    factors = [factor for dim in dims for factor in _factors(dim)]
    return _made("product", factors, math.prod(factor.size for factor in factors))


def total(dims: Sequence[Dim]) -> Dim:
    """Dimensions laid end to end."""
    terms = [term for dim in dims for term in _terms(dim)]
    return _made("sum", terms, sum(term.size for term in terms))


def same(left: Dim, right: Dim) -> None:
    """Let two dimensions be one: index i of one is index i of the other.

    Raises:
        ValueError: when they differ in size.
    """
    left, right = left.root, right.root
    if left is right:
        return
    if left.size != right.size:
        raise ValueError(f"dimensions of {left.size} and {right.size} cannot be the same")
    if left.form == "whole":
        left, right = right, left
    # Linked last: until then each side is looked at by itself.
    if right.form == "whole":
        fixed = right.own_reason
        if fixed:
            left.fix(fixed)
    elif left.form == right.form == "product":
        _align(_factors(left), _factors(right), "product")
    elif left.form == right.form == "sum":
        _align(_terms(left), _terms(right), "sum")
    else:
        _same_product_and_sum(*((left, right) if left.form == "product" else (right, left)))
    right.same_as = left


def reshaped(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """The dimensions of a tensor of the same numbers in the same order, of other sizes."""
    found = [Dim(size) for size in sizes]
    same(product(found), product(dims))
    return [dim.root for dim in found]


def divided(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """The pieces into which a dimension is split, end to end."""
    found = [Dim(size) for size in sizes]
    same(total(found), dim)
    return [piece.root for piece in found]


def _made(form: Form, parts: Sequence[Dim], size: int) -> Dim:
    if len(parts) == 1:
        return parts[0]
    dim = Dim(size)
    if parts:
        dim.become(form, parts)
    return dim


def _factors(dim: Dim) -> list[Dim]:
    """Those of a product, none of which is one itself or of size 1."""
    if dim.form == "product":
        return [factor for part in dim.parts for factor in _factors(part)]
    return [dim.root] if dim.size != 1 else []


def _terms(dim: Dim) -> list[Dim]:
    """Those of a sum, none of which is one itself or empty."""
    if dim.form == "sum":
        return [term for part in dim.parts for term in _terms(part)]
    return [dim.root] if dim.size != 0 else []


def _align(left: list[Dim], right: list[Dim], form: Form) -> None:
    """Divide two lists of parts of one whole until each part of one is a part of the other."""
    left, right = list(left), list(right)
    while left and right:
        first, second = left.pop(0), right.pop(0)
        if first.size == second.size:
            same(first, second)
            continue
        if first.size < second.size:
            first, second, left, right = second, first, right, left
        # `first` is the larger: its head is `second`, and what is left of it comes next.
        head_and_rest = _cut(first, second.size, form)
        if head_and_rest is None:
            _fix_all_but_the_end([first, *left], [second, *right])
            return
        same(head_and_rest[0], second)
        left.insert(0, head_and_rest[1])


def _fix_all_but_the_end(left: list[Dim], right: list[Dim]) -> None:
    """Give up two lists that begin unlike; parts of one size that both end in are the same all the same.

    Index ``i * size + j`` of one is that of the other, whatever ``i`` is made of; from the end of a sum it is
    so as well. The first parts differ in size and the wholes do not: neither list comes to be empty.
    """
    while left[-1].size == right[-1].size:
        same(left.pop(), right.pop())
    for dim in (*left, *right):
        dim.fix("it is laid out in two ways that have no parts in common")


def _cut(dim: Dim, head: int, form: Form) -> tuple[Dim, Dim] | None:
    """Divide a factor or term in two, the first of size `head`; None where its form forbids it."""
    if form == "product" and dim.size % head:
        return None
    if dim.form == "whole":
        rest = dim.size // head if form == "product" else dim.size - head
        parts = (Dim(head), Dim(rest))
        dim.become(form, parts)
        return parts
    if form == "product" and _sum_to_product(dim):
        factors = _factors(dim)
        if factors[0].size == head:
            return factors[0], product(factors[1:])
    return None


def _sum_to_product(dim: Dim) -> bool:
    """Make a sum of equal terms a product: so many times the one that they all are then."""
    terms = _terms(dim)
    if len({term.size for term in terms}) > 1:
        return False
    for term in terms[1:]:
        same(terms[0], term)
    dim.become("product", (Dim(len(terms), fixed="it numbers parts of one tensor"), terms[0]))
    return True


def _same_product_and_sum(factors: Dim, terms: Dim) -> None:
    if _sum_to_product(terms):
        _align(_factors(factors), _factors(terms), "product")
    else:
        for dim in (factors, terms):
            dim.fix("it is laid out as a product and as a sum of unlike parts")
