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
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgevit.export.tflite.model import add_constant, constant, opcode, operator_name, prune, shape_of
from edgevit.export.tflite.views import Shape, View, inverse, move_of

# The interpreter's TRANSPOSE, and the delegates', take no more dimensions.
_RANK_LIMIT = 6

_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_REDUCTIONS = frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"})
_ELEMENTWISE = frozenset(
    {
        "ABS", "ADD", "DIV", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM",
        "MINIMUM", "MUL", "NEG", "RELU", "RELU6", "RSQRT", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB",
        "TANH",
    }
)  # fmt: skip


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


@dataclass(frozen=True)
class _Placed:
    """A tensor that a reshape or transpose makes, as a view of the tensor it is made from."""

    root: int
    view: View


@dataclass
class _Rewrite:
    """One pass over a graph's operators in order, writing the new list.

    Reshapes and transposes are not copied but remembered as views, and carried out where another
    operator, or the graph's output, needs the tensor.
    """

    model: Any
    graph: Any
    operators: list[Any] = field(default_factory=list)
    views: dict[int, _Placed] = field(default_factory=dict)
    made: dict[tuple[Any, ...], int] = field(default_factory=dict)
    users: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> None:
        old = list(self.graph.operators)
        for operator in old:
            for tensor in set(operator.inputs):
                self.users[tensor].append(operator)
        for operator in old:
            self._visit(operator)
        for tensor in self.graph.outputs:
            if tensor in self.views:
                self._carry_out(self.views[tensor], into=tensor)
        self.graph.operators = self.operators

    def _visit(self, operator: Any) -> None:
        name = operator_name(self.model, operator)
        if self._remember(name, operator):
            return
        operator = copy.copy(operator)
        if name == "BATCH_MATMUL":
            self._read_transposed(operator)
        elif name in _REDUCTIONS:
            self._reduce_in_place(operator)
        elif name in _ELEMENTWISE:
            self._compute_in_layout(operator)
        operator.inputs = [self._tensor(tensor) for tensor in operator.inputs]
        self.operators.append(operator)

    # Reshapes and transposes: remembered, and carried out where they are needed.

    def _remember(self, name: str, operator: Any) -> bool:
        """Whether the operator is a reshape or transpose, now remembered as a view."""
        placed = self._placed(operator.inputs[0]) if len(operator.inputs) else None
        view = placed and self._moved(name, operator, placed.view)
        if placed is not None and view is None and self._moved(name, operator, View.of(placed.view.shape)):
            # It cannot be joined to the chain before it, so that chain ends here.
            source = self._tensor(operator.inputs[0])
            placed = _Placed(source, View.of(self._shape(source)))
            view = self._moved(name, operator, placed.view)
        if placed is None or view is None:
            return False
        self.views[operator.outputs[0]] = _Placed(placed.root, view)
        return True

    def _moved(self, name: str, operator: Any, view: View) -> View | None:
        """A view after one more operator; None where it is no reshape or transpose, or cannot be joined."""
        if name in _RESHAPES:
            moved = view.reshape(self._shape(operator.outputs[0]))
        elif name == "TRANSPOSE":
            permutation = self._constant(operator.inputs[1])
            moved = None if permutation is None else view.transpose([int(axis) for axis in permutation])
        else:
            return None
        return moved if moved is not None and moved.rank <= _RANK_LIMIT else None

    def _placed(self, tensor: int) -> _Placed:
        return self.views.get(tensor) or _Placed(tensor, View.of(self._shape(tensor)))

    def _tensor(self, tensor: int) -> int:
        """The tensor to use in the new graph: what it is a view of, carried out."""
        return self._carry_out(self.views[tensor]) if tensor in self.views else tensor

    def _carry_out(self, placed: _Placed, *, into: int | None = None) -> int:
        root, view = placed.root, placed.view
        source = root
        if view.moves:
            source = self._transposed(root, view)
        if into is None and self._shape(source) == view.shape:
            return source
        return self._reshaped(source, view.shape, into=into)

    def _transposed(self, root: int, view: View) -> int:
        key = ("TRANSPOSE", root, view.canonical())
        if key not in self.made:
            move = move_of(view, self._shape(root), rank_limit=_RANK_LIMIT)
            source = self._reshaped(root, move.before)
            permutation = self._int_constant(move.permutation)
            self.made[key] = self._emit("TRANSPOSE", [source, permutation], move.after, None)
        return self.made[key]

    def _reshaped(self, source: int, shape: Shape, *, into: int | None = None) -> int:
        if into is None and self._shape(source) == shape:
            return source
        key = ("RESHAPE", source, shape)
        if into is None and key in self.made:
            return self.made[key]
        made = self._emit("RESHAPE", [source, self._int_constant(shape)], shape, into)
        return self.made.setdefault(key, made)

    def _emit(self, name: str, inputs: list[int], shape: Shape, into: int | None) -> int:
        operator = schema.OperatorT()
        operator.opcodeIndex = opcode(self.model, getattr(schema.BuiltinOperator, name))
        if name == "RESHAPE":
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT(newShape=list(shape))
        else:
            operator.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
            operator.builtinOptions = schema.TransposeOptionsT()
        operator.inputs = inputs
        operator.outputs = [self._like(inputs[0], shape, name) if into is None else into]
        self.operators.append(operator)
        return int(operator.outputs[0])

    # Operators that take a transposed input as it is.

    def _read_transposed(self, operator: Any) -> None:
        """BATCH_MATMUL: read the right side with its last two dimensions exchanged."""
        placed = self._placed(operator.inputs[1])
        swapped = placed.view.swap_last()
        if placed.view.moves and not swapped.moves:
            operator.builtinOptions = copy.copy(operator.builtinOptions)
            operator.builtinOptions.adjY = not operator.builtinOptions.adjY
            operator.inputs = [operator.inputs[0], self._carry_out(_Placed(placed.root, swapped))]

    def _reduce_in_place(self, operator: Any) -> None:
        """MEAN and its like: reduce the same axes of the tensor before it was transposed."""
        placed = self._placed(operator.inputs[0])
        move = placed.view.exchange() if placed.view.moves else None
        axes = self._constant(operator.inputs[1])
        if move is None or axes is None:
            return
        permutation, rank = move.permutation, len(move.permutation)
        reduced = {permutation[int(axis) % rank] for axis in np.atleast_1d(axes)}
        kept = [axis for axis in permutation if axis not in reduced]
        if kept != sorted(kept) and not operator.builtinOptions.keepDims:
            return
        source = self._reshaped(placed.root, move.before)
        operator.inputs = [source, self._int_constant(tuple(sorted(reduced)))]
        if operator.builtinOptions.keepDims:
            self._made_in_layout(operator, permutation)

    def _compute_in_layout(self, operator: Any) -> None:
        """Elementwise arithmetic: in the layout of one of its inputs, where that leaves fewer transposes."""
        rank = len(self._shape(operator.outputs[0]))
        for tensor in operator.inputs:
            view = self._placed(tensor).view
            move = view.exchange() if view.moves and len(view.shape) == rank else None
            if move is None:
                continue
            permutation = move.permutation
            inputs = [self._in_layout(other, permutation) for other in operator.inputs]
            if None not in inputs and self._gain(operator, permutation) > 0:
                operator.inputs = [self._bring(other, permutation) for other in operator.inputs]
                self._made_in_layout(operator, permutation)
                return

    def _in_layout(self, tensor: int, permutation: tuple[int, ...]) -> View | None:
        """The view of a tensor in the layout before `permutation`; None where it has no such layout."""
        shape = self._shape(tensor)
        if len(shape) != len(permutation):
            known = self._constant(tensor) is not None and len(shape) < len(permutation)
            return View.of(shape) if known else None
        view = self._placed(tensor).view.transpose(inverse(permutation))
        return view if view.rank <= _RANK_LIMIT else None

    def _bring(self, tensor: int, permutation: tuple[int, ...]) -> int:
        """The tensor in the layout before `permutation`, constants rewritten and others carried out."""
        values = self._constant(tensor)
        if values is not None:
            if values.size == 1:
                return tensor
            values = values.reshape((1,) * (len(permutation) - values.ndim) + values.shape)
            moved = np.transpose(values, inverse(permutation))
            made = add_constant(self.model, self.graph, moved, self._name(tensor))
            self.graph.tensors[made].quantization = self.graph.tensors[tensor].quantization
            return made
        placed = self._placed(tensor)
        return self._carry_out(_Placed(placed.root, placed.view.transpose(inverse(permutation))))

    def _gain(self, operator: Any, permutation: tuple[int, ...]) -> int:
        """Transposes saved by computing in the layout before `permutation`."""
        gain = 0
        for tensor in set(operator.inputs):
            if self._constant(tensor) is None:
                view = self._placed(tensor).view
                after = view.transpose(inverse(permutation))
                gain += int(view.moves and len(self.users[tensor]) == 1) - int(after.moves)
        output = operator.outputs[0]
        here = View.of(self._shape(output))
        before = View.of(tuple(here.shape[axis] for axis in inverse(permutation))).transpose(permutation)
        return gain + len(self._ends(output, here)) - len(self._ends(output, before))

    def _ends(self, tensor: int, view: View) -> set[tuple[Any, ...]]:
        """The distinct transposes that the users of a tensor need, if the tensor is this view."""
        needed = {view.canonical()} if view.moves and tensor in self.graph.outputs else set()
        for user in self.users[tensor]:
            name = operator_name(self.model, user)
            moved = self._moved(name, user, view)
            if moved is not None:
                needed |= self._ends(user.outputs[0], moved)
            elif view.moves:
                needed.add(view.canonical())
        return needed

    def _made_in_layout(self, operator: Any, permutation: tuple[int, ...]) -> None:
        """Give the operator an output in the layout before `permutation`, and remember the old one as its view."""
        output = operator.outputs[0]
        wanted = self._shape(output)
        shape = tuple(wanted[axis] for axis in inverse(permutation))
        made = self._like(output, shape, "in layout")
        operator.outputs = [made]
        self.views[output] = _Placed(made, View.of(shape).transpose(permutation))

    # The model's tensors.

    def _shape(self, tensor: int) -> Shape:
        return shape_of(self.graph.tensors[tensor])

    def _constant(self, tensor: int) -> Any:
        return constant(self.model, self.graph.tensors[tensor])

    def _name(self, tensor: int) -> str:
        name = self.graph.tensors[tensor].name
        return name.decode() if isinstance(name, bytes) else str(name)

    def _like(self, tensor: int, shape: Shape, what: str) -> int:
        """A new tensor of the same type and scale."""
        made = copy.copy(self.graph.tensors[tensor])
        made.shape = np.array(shape, dtype=np.int32)
        made.shapeSignature = None
        made.name = f"{self._name(tensor)};{what.lower()}{len(self.graph.tensors)}".encode()
        made.buffer = 0
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def _int_constant(self, values: tuple[int, ...]) -> int:
        key = ("CONSTANT", values)
        if key not in self.made:
            array = np.array(values, dtype=np.int32)
            self.made[key] = add_constant(self.model, self.graph, array, f"layout{len(self.made)}")
        return self.made[key]
