"""Compute in the shape that a tensor has, not in the one that it is reshaped to.

The converter reshapes a lot: statistics of a LayerNorm lose their last dimension and get it back, products
of matrices have one dimension for all batches, and tokens one row for each, whatever the grid they came
from. Every reshape copies the tensor. But an operator that looks at single elements, or along the last
dimension, gives the same values in another order of rows, so it takes the tensor as it is, and the reshape
is left to whatever comes next, until two of them undo one another:

    RESHAPE -> DEQUANTIZE -> MUL -> RESHAPE back  =  DEQUANTIZE -> MUL
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from edgevit.export.tflite.carry import Carrier, Placed
from edgevit.export.tflite.model import operator_name
from edgevit.export.tflite.views import Shape, View

# Kernels of more dimensions are rare, and slow where there are any.
_COMPUTED_RANK = 4

ELEMENTWISE = frozenset(
    {
        "ABS", "ADD", "DIV", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM",
        "MINIMUM", "MUL", "NEG", "RELU", "RELU6", "RSQRT", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB",
        "TANH",
    }
)  # fmt: skip
REDUCTIONS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"})
_CONVERSIONS = frozenset({"DEQUANTIZE", "QUANTIZE"})


class Reshaper(Carrier):
    """A carrier that passes reshapes on through operators which do not mind them."""

    def pass_reshapes_on(self, name: str, operator: Any) -> None:
        """Let an operator, a copy that may be changed, read its inputs before they were reshaped."""
        if name in ELEMENTWISE | _CONVERSIONS:
            self._compute_before(operator, [int(tensor) for tensor in operator.inputs])
        elif name == "SOFTMAX" or (name == "FULLY_CONNECTED" and operator.builtinOptions.keepNumDims):
            self._compute_before(operator, [int(operator.inputs[0])], rows=True)
        elif name in REDUCTIONS:
            self._reduce_rows_before(operator)
        elif name == "SLICE":
            self._slice_before(operator)
        elif name == "BATCH_MATMUL":
            self._multiply_before(operator)

    def _compute_before(self, operator: Any, read: list[int], *, rows: bool = False) -> None:
        """Elementwise operators and those of rows: the rows in the arrangement that the inputs' have."""
        output = operator.outputs[0]
        shape = self.shape(output)
        computed = [tensor for tensor in read if self.constant(tensor) is None]
        placed = [self._settled(tensor) for tensor in computed]
        sources = [self.shape(one.root) for one in placed]
        if all(source == one.view.shape for source, one in zip(sources, placed, strict=True)):
            return
        fixed = [self.shape(tensor) for tensor in read if tensor not in computed]
        shapes = [one.view.shape for one in placed]
        if not rows and _is_one(shapes) and shapes[0] == shape and _is_one(sources):
            made = sources[0] if all(math.prod(sizes) == 1 for sizes in fixed) else None
        else:
            made = None
        made = made or _rows_before(sources, shapes, fixed, shape)
        if made is None or len(made) > max(_COMPUTED_RANK, len(shape)):
            return
        roots = dict(zip(computed, (one.root for one in placed), strict=True))
        operator.inputs = [roots.get(int(tensor), tensor) for tensor in operator.inputs]
        self._made_before(operator, made)

    def _reduce_rows_before(self, operator: Any) -> None:
        """MEAN and its like along the last dimension: keep it where it is wanted back."""
        placed = self._settled(operator.inputs[0])
        axes = self.constant(operator.inputs[1])
        shape, source = placed.view.shape, self.shape(placed.root)
        rank = len(shape)
        if axes is None or not rank or source[-1:] != shape[-1:]:
            return
        reduced = {int(axis) % rank for axis in np.atleast_1d(axes)}
        if {axis for axis in reduced if shape[axis] != 1} != {rank - 1}:
            return
        output = operator.outputs[0]
        kept = (*source[:-1], 1)
        if len(kept) > max(_COMPUTED_RANK, rank) or not self._is_wanted(output, (*shape[:-1], 1)):
            return
        operator.inputs = [placed.root, self.int_constant((len(source) - 1,))]
        operator.builtinOptions = copy.copy(operator.builtinOptions)
        operator.builtinOptions.keepDims = True
        self._made_before(operator, kept)

    def _is_wanted(self, tensor: int, shape: Shape) -> bool:
        """Whether a tensor has a shape, or gets it, itself or what is computed of its single elements."""
        if self.shape(tensor) == shape:
            return True
        for user in self.users[tensor]:
            name, output = operator_name(self.model, user), int(user.outputs[0])
            if name == "RESHAPE" and self.shape(output) == shape:
                return True
            same = name in ELEMENTWISE and self.shape(output) == self.shape(tensor)
            if same and self._is_wanted(output, shape):
                return True
        return False

    def _multiply_before(self, operator: Any) -> None:
        """BATCH_MATMUL: with all the dimensions of the batch that both sides had before."""
        placed = [self._settled(tensor) for tensor in operator.inputs]
        sources = [self.shape(one.root) for one in placed]
        kept = all(source[-2:] == one.view.shape[-2:] for source, one in zip(sources, placed, strict=True))
        batch = sources[0][:-2]
        if kept and batch == sources[1][:-2] and len(sources[0]) <= _COMPUTED_RANK:
            operator.inputs = [one.root for one in placed]
            self._made_before(operator, (*batch, *self.shape(operator.outputs[0])[-2:]))

    def _slice_before(self, operator: Any) -> None:
        """SLICE: cut a piece without gaps out of the tensor before it was reshaped, of few dimensions."""
        placed = self._settled(operator.inputs[0])
        begin, size = (self.constant(tensor) for tensor in operator.inputs[1:3])
        shape, source = placed.view.shape, self.shape(placed.root)
        if begin is None or size is None:
            return
        piece = _piece(shape, [int(at) for at in begin], self.shape(operator.outputs[0]))
        merged = source
        if piece is not None and len(source) > _COMPUTED_RANK:
            most = len(source) - _COMPUTED_RANK + 1
            merged = (math.prod(source[:most]), *source[most:])
        cut = None if piece is None else _cut(merged, *piece)
        if cut is None or merged == shape:
            return
        begin_at, length = cut
        root = self.reshaped(placed.root, merged)
        operator.inputs = [root, self.int_constant(begin_at), self.int_constant(length)]
        self._made_before(operator, length)

    def _settled(self, tensor: int) -> Placed:
        """A tensor as one that is only reshaped: a transpose that is still to be made, is made."""
        placed = self.placed(tensor)
        if not placed.view.moves:
            return placed
        made = self.transposed(placed)
        view = View.of(self.shape(made)).reshape(placed.view.shape)
        return Placed(made, view) if view is not None else Placed(tensor, View.of(placed.view.shape))

    def _made_before(self, operator: Any, shape: Shape) -> None:
        """Give the operator an output of another shape; the old one is that, reshaped."""
        output = operator.outputs[0]
        wanted = self.shape(output)
        if shape == wanted:
            return
        made = self.like(output, shape, "in shape")
        view = View.of(shape).reshape(wanted)
        if view is None:
            raise AssertionError(f"{shape} is not {wanted} reshaped")
        operator.outputs = [made]
        self.views[output] = Placed(made, view)


def _is_one(shapes: list[Shape]) -> bool:
    return len(set(shapes)) == 1


def _rows_before(sources: list[Shape], shapes: list[Shape], fixed: list[Shape], made: Shape) -> Shape | None:
    """The shape of what is made, if all that is read and made has the same rows, arranged in one way before.

    Args:
        sources: of what is read, before it was reshaped.
        shapes: of the same, after.
        fixed: of constants, which must be the same for every row.
        made: after.
    """
    leading = {shape[:-1] for shape in (*shapes, made)}
    before = {source[:-1] for source in sources}
    kept = all(
        source and shape and source[-1] == shape[-1] for source, shape in zip(sources, shapes, strict=True)
    )
    alike = all(math.prod(shape[:-1]) == 1 for shape in fixed)
    if not (kept and alike and len(leading) == len(before) == 1):
        return None
    return (*before.pop(), made[-1])


def _piece(shape: Shape, begin: list[int], size: Shape) -> tuple[int, int] | None:
    """Where a slice begins and how long it is, counted in elements; None where it has gaps."""
    cut = [axis for axis, (length, whole) in enumerate(zip(size, shape, strict=True)) if length != whole]
    if len(cut) != 1 or math.prod(shape[: cut[0]]) != 1:
        return None
    inner = math.prod(shape[cut[0] + 1 :])
    return begin[cut[0]] * inner, size[cut[0]] * inner


def _cut(source: Shape, begin: int, length: int) -> tuple[Shape, Shape] | None:
    """A piece of so many elements as the begin and size of a slice along the first dimension above 1."""
    axis = next((index for index, size in enumerate(source) if size != 1), None)
    if axis is None:
        return None
    inner = math.prod(source[axis + 1 :])
    (start, rest), (size, remainder) = divmod(begin, inner), divmod(length, inner)
    if rest or remainder:
        return None
    zeros = tuple(0 for _ in source)
    return (*zeros[:axis], start, *zeros[axis + 1 :]), (*source[:axis], size, *source[axis + 1 :])
