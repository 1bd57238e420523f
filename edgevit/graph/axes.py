"""The axes of a graph: what can shrink, and what shrinks with it.

Every dimension of every tensor is given a `Dim`, and each operator says which of them are the same
(`edgevit.graph.axis_rules`). What is left, the whole dimensions that all others are made of, are the axes:
a model's width, its heads, the hidden width of one MLP. To slice an axis is to keep some of its indices
wherever it occurs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.fx import Node

from edgevit.graph.axis_rules import Call, apply, fix
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.rewriting import is_call

aten = torch.ops.aten

# Widths are those of one head; "hidden" is what one layer gives and another reads, "channels" what a
# convolution that sees more than a pixel gives or reads.
Role = Literal["heads", "query-key", "value", "residual", "channels", "hidden"]
# A dimension that takes part in several is the first of them.
_ROLES: tuple[Role, ...] = get_args(Role)

# Stands for the batch in sizes: a prime that no model has for a size, so that windows in the batch come
# apart.
_BATCH = 1_000_003

_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
_ATTENTION = frozenset({aten.scaled_dot_product_attention.default})
_SUMS = frozenset({aten.add.Tensor})
LAYERS = frozenset({aten.linear.default, aten.conv1d.default, aten.conv2d.default})


@dataclass(frozen=True)
class Touch:
    """A parameter or buffer that an axis occurs in.

    Attributes:
        path: its dotted name.
        dim: which of its dimensions the axis is, or is a part of.
        numbers: how many numbers the tensor has.
    """

    path: str
    dim: int
    numbers: int


@dataclass(frozen=True)
class Axis:
    """One thing that can shrink.

    Attributes:
        name: the first tensor that it occurs in and its role, as in ``blocks.0.mlp.fc1:hidden``; the same for
            the same program every time.
        role: what it is to the model.
        size: how many indices it has.
        touches: every parameter and buffer that it occurs in.
        share: of all numbers that the model stores, those in the tensors in which it occurs, 0 to 1.
        fixed: why it may not be sliced; None where it may.
    """

    name: str
    role: Role
    size: int
    touches: tuple[Touch, ...]
    share: float
    fixed: str | None


class Dimensions:
    """The dimensions of every tensor of a graph, made the same where its operators say so.

    Attributes:
        of: node to its dimensions, a list of such for a tuple of tensors; none for what is no tensor.
        batch: the dimension of images, fixed.

    Raises:
        EdgevitError: when the program is a stage of a model: its ends would no longer fit the other stages.
    """

    def __init__(self, program: Program) -> None:
        program.card.check_whole()
        self.program = program
        self.of: dict[Node, Any] = {}
        self.batch: Dim
        image = str(program.exported.graph_signature.user_inputs[0])
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if node.op == "output" or not _is_tensor(value):
                continue
            self.of[node] = _fresh(value)
            if node.op == "call_function":
                apply(Call(node, self.of))
            elif node.name == image:
                self.batch, *others = self.of[node]
                self.batch.fix("it is the batch")
                fix(others, "it is the image")
        results = set(program.exported.graph_signature.user_outputs)
        for node, dims in self.of.items():
            if node.name in results:
                fix(dims, "it is the result")

    def axes(self) -> dict[Axis, Dim]:
        """The axes that occur in a parameter or buffer, and the whole dimension that each is.

        Those come first that touch most.
        """
        touches: dict[Dim, dict[Touch, None]] = {}
        everything = 0
        for node, path, value in stored_tensors(self.program):
            everything += value.numel()
            for place, dim in enumerate(self.of[node]):
                for leaf in dim.leaves():
                    if leaf.size > 1:
                        touches.setdefault(leaf, {})[Touch(path, place, value.numel())] = None
        roles, names = _roles(self), Counter[str]()
        found: dict[Axis, Dim] = {}
        for leaf, where in touches.items():
            role, first = roles.get(leaf, "hidden"), next(iter(where)).path.removesuffix(".weight")
            names[f"{first}:{role}"] += 1
            number = names[f"{first}:{role}"]
            name = f"{first}:{role}" + (f"#{number}" if number > 1 else "")
            numbers = sum({touch.path: touch.numbers for touch in where}.values())
            found[Axis(name, role, leaf.size, tuple(where), numbers / everything, leaf.fixed)] = leaf
        return dict(sorted(found.items(), key=lambda item: -item[0].share))


def find_axes(program: Program) -> tuple[Axis, ...]:
    """The axes of a program, those first that touch most parameters.

    Args:
        program: best as `edgevit.graph.rewrites.prepare_for_export` gives it, in which operators are fewer.
    """
    return tuple(Dimensions(program).axes())


def _roles(dimensions: Dimensions) -> dict[Dim, Role]:
    """What each whole dimension is; those that are not here are hidden."""
    found: dict[Dim, Role] = {}

    def note(dims: list[Dim], role: Role) -> None:
        for dim in dims:
            for leaf in dim.leaves():
                if _ROLES.index(role) < _ROLES.index(found.get(leaf, "hidden")):
                    found[leaf] = role

    constants = {node for node in dimensions.of if node.op == "placeholder"}
    for node, out in dimensions.of.items():
        tensors = [source for source in node.all_input_nodes if source in dimensions.of]
        computed = [source for source in tensors if source not in constants]
        if is_call(node, _ATTENTION) or (is_call(node, _PRODUCTS) and len(computed) == 2):
            query = dimensions.of[tensors[0]]
            note(out[1:-2], "heads")
            note([query[-1]], "query-key")
            note([out[-1]], "value")
        elif is_call(node, _SUMS) and len(computed) == 2:
            note(out, "residual")
        elif is_call(node, LAYERS) and len(dimensions.of[tensors[1]]) > 2:
            weight = dimensions.of[tensors[1]]
            if any(dim.size > 1 for dim in weight[2:]):
                note(weight[:2], "channels")
    return found


def stored_tensors(program: Program) -> Iterator[tuple[Node, str, torch.Tensor]]:
    """Every parameter, buffer and constant that the graph reads, and its path."""
    exported = program.exported
    signature = exported.graph_signature
    paths = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    stored = {**exported.constants, **exported.state_dict}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in paths:
            yield node, paths[node.name], stored[paths[node.name]]


def _is_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(part, torch.Tensor) for part in value)
    return isinstance(value, torch.Tensor)


def _fresh(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_fresh(part) for part in value]
    return [Dim(_size(size)) for size in value.shape]


def _size(size: Any) -> int:
    """A size, with a number in place of the batch."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    return int(expression.xreplace(dict.fromkeys(expression.free_symbols, _BATCH)))
