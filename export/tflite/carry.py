"""A graph's operators written out anew, its reshapes and transposes as late and as few as can be."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgevit.export.tflite.model import add_constant, constant, opcode, shape_of
from edgevit.export.tflite.views import Shape, View, move_of

# The interpreter's TRANSPOSE, and the delegates', take no more dimensions.
RANK_LIMIT = 6

_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})


@dataclass(frozen=True)
class Placed:
    """A tensor that a reshape or transpose makes, as a view of the tensor it is made from."""

    root: int
    view: View


@dataclass
class Carrier:
    """The new list of a graph's operators, being written.

    Reshapes and transposes are not copied but remembered as views, and carried out where another
    operator, or the graph's output, needs the tensor. Tensors are named by their index in the graph.

    Attributes:
        model: the ``ModelT``.
        graph: its ``SubGraphT``.
        operators: the new list.
        views: what each tensor of a remembered reshape or transpose is.
        made: the reshapes, transposes and constants made so far, by what they do.
        users: the old operators that read each tensor.
    """

    model: Any
    graph: Any
    operators: list[Any] = field(default_factory=list)
    views: dict[int, Placed] = field(default_factory=dict)
    made: dict[tuple[Any, ...], int] = field(default_factory=dict)
    users: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def remember(self, name: str, operator: Any) -> bool:
        """Whether the operator is a reshape or transpose, now remembered as a view."""
        if name not in _RESHAPES and name != "TRANSPOSE":
            return False
        placed = self.placed(operator.inputs[0])
        view = self.moved(name, operator, placed.view)
        if view is None:
            # It cannot be joined to the chain before it, so that chain ends here.
            source = self.tensor(operator.inputs[0])
            placed = Placed(source, View.of(self.shape(source)))
            view = self.moved(name, operator, placed.view)
        if view is None:
            return False
        self.views[operator.outputs[0]] = Placed(placed.root, view)
        return True

    def moved(self, name: str, operator: Any, view: View) -> View | None:
        """A view after one more operator; None where it is no reshape or transpose, or cannot be joined."""
        if name in _RESHAPES:
            moved = view.reshape(self.shape(operator.outputs[0]))
        elif name == "TRANSPOSE":
            permutation = self.constant(operator.inputs[1])
            moved = None if permutation is None else view.transpose([int(axis) for axis in permutation])
        else:
            return None
        return moved if moved is not None and moved.rank <= RANK_LIMIT else None

    def placed(self, tensor: int) -> Placed:
        """What a tensor is a view of; of itself where nothing is remembered."""
        return self.views.get(tensor) or Placed(tensor, View.of(self.shape(tensor)))

    def tensor(self, tensor: int) -> int:
        """The tensor to use in the new graph: what it is a view of, carried out."""
        return self.carry_out(self.views[tensor]) if tensor in self.views else tensor

    def carry_out(self, placed: Placed, *, into: int | None = None) -> int:
        """Make a view a tensor, `into` a given one or else any; returns which."""
        root, view = placed.root, placed.view
        source = root
        if view.moves:
            source = self.transposed(placed)
        if into is None and self.shape(source) == view.shape:
            return source
        return self.reshaped(source, view.shape, into=into)

    def transposed(self, placed: Placed) -> int:
        """Make the transpose of a view, whatever shape it comes out in."""
        root, view = placed.root, placed.view
        key = ("TRANSPOSE", root, view.canonical())
        if key not in self.made:
            move = move_of(view, self.shape(root), rank_limit=RANK_LIMIT)
            source = self.reshaped(root, move.before)
            permutation = self.int_constant(move.permutation)
            self.made[key] = self._emit("TRANSPOSE", [source, permutation], move.after, None)
        return self.made[key]

    def reshaped(self, source: int, shape: Shape, *, into: int | None = None) -> int:
        """The source in another shape, itself where it has it."""
        if into is None and self.shape(source) == shape:
            return source
        key = ("RESHAPE", source, shape)
        if into is None and key in self.made:
            return self.made[key]
        made = self._emit("RESHAPE", [source, self.int_constant(shape)], shape, into)
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
        operator.outputs = [self.like(inputs[0], shape, name) if into is None else into]
        self.operators.append(operator)
        return int(operator.outputs[0])

    def shape(self, tensor: int) -> Shape:
        """A tensor's shape."""
        return shape_of(self.graph.tensors[tensor])

    def constant(self, tensor: int) -> Any:
        """A tensor's values, or None where they are computed."""
        return constant(self.model, self.graph.tensors[tensor])

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        name = self.graph.tensors[tensor].name
        return name.decode() if isinstance(name, bytes) else str(name)

    def like(self, tensor: int, shape: Shape, what: str) -> int:
        """A new tensor of the same type and scale."""
        made = copy.copy(self.graph.tensors[tensor])
        made.shape = np.array(shape, dtype=np.int32)
        made.shapeSignature = None
        made.name = f"{self.name(tensor)};{what.lower()}{len(self.graph.tensors)}".encode()
        made.buffer = 0
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def int_constant(self, values: tuple[int, ...]) -> int:
        """A constant of int32 values, made once."""
        key = ("CONSTANT", values)
        if key not in self.made:
            array = np.array(values, dtype=np.int32)
            self.made[key] = add_constant(self.model, self.graph, array, f"layout{len(self.made)}")
        return self.made[key]
