"""Take the layout transposes out of a converted model that only undo one another.

The converter lays convolutions out channels-last and everything else as torch had it, with transposes
between the two. Where tokens are made of a feature map it leaves

    CONV_2D -> TRANSPOSE (to channels-first) -> RESHAPE -> TRANSPOSE -> FULLY_CONNECTED

which moves every element twice to put it where it was: the same as CONV_2D -> RESHAPE. So every chain
of reshapes and transposes is reduced to at most one of each (`edgevit.export.tflite.views`), and a
transpose is passed on through the operators that can take its input as it is:

* a batched product reads its right side transposed (``adj_y``);
* a mean, sum or maximum over axes takes the same axes of the untransposed tensor;
* elementwise arithmetic works in any layout, and takes the one that leaves fewer transposes.

Only the order of elements is touched, never a value; reductions over other axes may add in another order.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.export.tflite.carry import RANK_LIMIT, Placed
from edgevit.export.tflite.model import add_constant, operator_name, prune
from edgevit.export.tflite.reshapes import ELEMENTWISE, REDUCTIONS, Reshaper
from edgevit.export.tflite.views import View, inverse


def remove_transposes(model: Any) -> None:
    """Rewrite a model in place so that as few transposes as possible are left.

    Args:
        model: a ``ModelT``.
    """
    for graph in model.subgraphs:
        before = list(graph.operators), list(graph.tensors)
        _Rewrite(model, graph).run()
        if _transposes(model, graph.operators) > _transposes(model, before[0]):
            graph.operators, graph.tensors = before
    prune(model)


def _transposes(model: Any, operators: list[Any]) -> int:
    return sum(operator_name(model, operator) == "TRANSPOSE" for operator in operators)


@dataclass
class _Rewrite(Reshaper):
    """One pass over a graph's operators in order."""

    def run(self) -> None:
        old = list(self.graph.operators)
        for operator in old:
            for tensor in set(operator.inputs):
                self.users[tensor].append(operator)
        for operator in old:
            self._visit(operator)
        for tensor in self.graph.outputs:
            if tensor in self.views:
                self.carry_out(self.views[tensor], into=tensor)
        self.graph.operators = self.operators

    def _visit(self, operator: Any) -> None:
        name = operator_name(self.model, operator)
        if self.remember(name, operator):
            return
        original, operator = operator, copy.copy(operator)
        if name == "BATCH_MATMUL":
            self._read_transposed(operator)
        elif name in REDUCTIONS:
            self._reduce_in_place(operator)
        elif name in ELEMENTWISE:
            self._compute_in_layout(operator, original)
        self.pass_reshapes_on(name, operator)
        operator.inputs = [self.tensor(tensor) for tensor in operator.inputs]
        self.operators.append(operator)

    # Operators that take a transposed input as it is.

    def _read_transposed(self, operator: Any) -> None:
        """BATCH_MATMUL: read the right side with its last two dimensions exchanged."""
        placed = self.placed(operator.inputs[1])
        swapped = placed.view.swap_last()
        if placed.view.moves and not swapped.moves:
            operator.builtinOptions = copy.copy(operator.builtinOptions)
            operator.builtinOptions.adjY = not operator.builtinOptions.adjY
            operator.inputs = [operator.inputs[0], self.carry_out(Placed(placed.root, swapped))]

    def _reduce_in_place(self, operator: Any) -> None:
        """MEAN and its like: reduce the same axes of the tensor before it was transposed."""
        placed = self.placed(operator.inputs[0])
        move = placed.view.exchange() if placed.view.moves else None
        axes = self.constant(operator.inputs[1])
        if move is None or axes is None:
            return
        permutation, rank = move.permutation, len(move.permutation)
        reduced = {permutation[int(axis) % rank] for axis in np.atleast_1d(axes)}
        kept = [axis for axis in permutation if axis not in reduced]
        if kept != sorted(kept) and not operator.builtinOptions.keepDims:
            return
        source = self.reshaped(placed.root, move.before)
        operator.inputs = [source, self.int_constant(tuple(sorted(reduced)))]
        if operator.builtinOptions.keepDims:
            self._made_in_layout(operator, permutation)

    def _compute_in_layout(self, operator: Any, original: Any) -> None:
        """Elementwise arithmetic: in the layout of one of its inputs, where that leaves fewer transposes.

        Of one computed input the transpose is passed on even where it only changes places: what follows
        may undo it.
        """
        computed = {tensor for tensor in operator.inputs if self.constant(tensor) is None}
        least = 0 if len(computed) == 1 else 1
        for tensor in sorted(computed):
            permutation = self._layout_of(tensor, len(self.shape(operator.outputs[0])))
            if permutation is None or None in [self._in_layout(t, permutation) for t in operator.inputs]:
                continue
            if self._gain(original, permutation) >= least:
                operator.inputs = [self._bring(other, permutation) for other in operator.inputs]
                self._made_in_layout(operator, permutation)
                return

    def _layout_of(self, tensor: int, rank: int) -> tuple[int, ...] | None:
        """The permutation that made a tensor of that rank from another layout; None where none did."""
        view = self.placed(tensor).view
        move = view.exchange() if view.moves and len(view.shape) == rank else None
        return None if move is None else move.permutation

    def _in_layout(self, tensor: int, permutation: tuple[int, ...]) -> View | None:
        """The view of a tensor in the layout before `permutation`; None where it has no such layout."""
        shape = self.shape(tensor)
        if len(shape) != len(permutation):
            known = self.constant(tensor) is not None and len(shape) < len(permutation)
            return View.of(shape) if known else None
        view = self.placed(tensor).view.transpose(inverse(permutation))
        return view if view.rank <= RANK_LIMIT else None

    def _bring(self, tensor: int, permutation: tuple[int, ...]) -> int:
        """The tensor in the layout before `permutation`, constants rewritten and others carried out."""
        values = self.constant(tensor)
        if values is not None:
            if values.size == 1:
                return tensor
            values = values.reshape((1,) * (len(permutation) - values.ndim) + values.shape)
            moved = np.transpose(values, inverse(permutation))
            made = add_constant(self.model, self.graph, moved, self.name(tensor))
            self.graph.tensors[made].quantization = self.graph.tensors[tensor].quantization
            return made
        placed = self.placed(tensor)
        return self.carry_out(Placed(placed.root, placed.view.transpose(inverse(permutation))))

    def _gain(self, operator: Any, permutation: tuple[int, ...]) -> int:
        """Transposes saved by computing in the layout before `permutation`."""
        gain = 0
        for tensor in set(operator.inputs):
            if self.constant(tensor) is None:
                placed = self.placed(tensor)
                after = Placed(placed.root, placed.view.transpose(inverse(permutation)))
                gain += int(self._is_new(placed) and not self._is_needed(tensor, besides=operator))
                gain -= int(self._is_new(after))
        output = operator.outputs[0]
        here = View.of(self.shape(output))
        before = View.of(tuple(here.shape[axis] for axis in inverse(permutation))).transpose(permutation)
        return gain + len(self._ends(output, here)) - len(self._ends(output, before))

    def _is_new(self, placed: Placed) -> bool:
        """Whether carrying a view out would add a transpose."""
        return placed.view.moves and ("TRANSPOSE", placed.root, placed.view.canonical()) not in self.made

    def _is_needed(self, tensor: int, *, besides: Any) -> bool:
        """Whether any other operator but reshapes and transposes reads the tensor."""
        view = View.of(self.shape(tensor))
        others = (user for user in self.users[tensor] if user is not besides)
        return tensor in self.graph.outputs or any(
            self.moved(operator_name(self.model, user), user, view) is None for user in others
        )

    def _ends(self, tensor: int, view: View) -> set[tuple[Any, ...]]:
        """The distinct transposes that the users of a tensor need, if the tensor is this view."""
        needed = {view.canonical()} if view.moves and tensor in self.graph.outputs else set()
        for user in self.users[tensor]:
            name = operator_name(self.model, user)
            moved = self.moved(name, user, view)
            if moved is not None:
                needed |= self._ends(user.outputs[0], moved)
            elif view.moves:
                needed.add(view.canonical())
        return needed

    def _made_in_layout(self, operator: Any, permutation: tuple[int, ...]) -> None:
        """Give the operator an output in the layout before `permutation`; the old one is its view."""
        output = operator.outputs[0]
        wanted = self.shape(output)
        shape = tuple(wanted[axis] for axis in inverse(permutation))
        made = self.like(output, shape, "in layout")
        operator.outputs = [made]
        self.views[output] = Placed(made, View.of(shape).transpose(permutation))
