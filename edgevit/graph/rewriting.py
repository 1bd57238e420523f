"""How a rewrite changes a Program: an editor on a copy of its graph.

A rewrite must leave its input as it was, keep the batch dynamic, and hand on a graph that every later
reader (run, save, export, another rewrite) can use. `Editor` is the one mechanism for that:

1. The ATen graph is copied. Weights are shared with the original and never written to: a changed weight
   is a new tensor.
2. The rewrite edits the copy. Every node it adds is evaluated on fake tensors at once, with the symbolic
   batch, so shapes are known while editing and `Editor.replace` can refuse a node of another shape.
3. `Editor.finish` drops what is no longer used, runs fake tensors again through every node whose inputs
   changed in shape or strides, and builds a new ``ExportedProgram`` with its public constructor, whose
   verifier checks graph, signature and weights against each other. The card gets a `Step`.

The other way, ``torch.export`` of the edited module, traces the model anew for every rewrite (seconds
where this takes a fraction of one) and would undo what the tracer writes differently.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch._ops import OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from edgevit.graph.card import Step
from edgevit.graph.fixed_batch import copied
from edgevit.graph.program import Program

Size = int | torch.SymInt
Shape = tuple[Size, ...]

# The order in which torch.export lifts what a graph reads into placeholders.
_PLACEHOLDER_ORDER = {
    InputKind.TOKEN: 0,
    InputKind.PARAMETER: 1,
    InputKind.BUFFER: 2,
    InputKind.CONSTANT_TENSOR: 3,
    InputKind.CUSTOM_OBJ: 4,
    InputKind.USER_INPUT: 5,
}
aten = torch.ops.aten

# The same numbers in another shape or order.
VIEWS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.permute.default,
        aten.transpose.int,
    }
)

_PREFIX = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_"}


class Editor:
    """A copy of a program's graph, open for change.

    Attributes:
        graph: the copy; `call` adds to it, `replace` rewires it.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        exported = program.exported
        self.graph = copied(exported.graph)
        # Unused-node removal asks the owning module about sub-graphs.
        self.graph.owning_module = exported.graph_module
        self._specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        self._state: dict[str, Any] = dict(exported.state_dict)
        self._constants: dict[str, Any] = dict(exported.constants)
        self._fake_mode = _fake_mode(self.graph)
        self._origin: Node | None = None
        self._inputs = dict(zip(exported.graph_signature.user_inputs, program.card.inputs, strict=True))
        self._outputs = program.card.outputs
        self._output_specs = list(exported.graph_signature.output_specs)
        self._takes_others = False
        self._evaluated_on = {node: _layouts_read(node) for node in self.graph.nodes}

    @property
    def image(self) -> Node:
        """The placeholder of the input."""
        placeholders: list[Node] = self.graph.find_nodes(op="placeholder")
        return next(node for node in placeholders if self._specs[node.name].kind is InputKind.USER_INPUT)

    @property
    def batch(self) -> Size:
        """How many images the graph takes at once: a symbol, or a number where it is fixed."""
        size: Size = self.image.meta["val"].shape[0]
        return size

    @property
    def results(self) -> tuple[Node, ...]:
        """What the graph returns."""
        results: tuple[Node, ...] = tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]
        return results

    def value(self, node: object) -> torch.Tensor | None:
        """The tensor behind a parameter, buffer or constant; None for any other node or argument."""
        spec = self._specs.get(node.name) if isinstance(node, Node) else None
        if spec is None or spec.target is None or spec.kind is InputKind.CUSTOM_OBJ:
            return None
        value = self._state.get(spec.target, self._constants.get(spec.target))
        return value.detach() if isinstance(value, torch.Tensor) else None

    def stored(self, node: object) -> torch.Tensor:
        """The tensor behind a parameter, buffer or constant.

        Raises:
            TypeError: when it is anything else: the rewrite is wrong.
        """
        value = self.value(node)
        if value is None:
            raise TypeError(f"{node} is no stored tensor")
        return value

    def path(self, node: Node) -> str:
        """The dotted name of a parameter, buffer or constant in the model."""
        return str(self._specs[node.name].target)

    def is_parameter(self, node: Node) -> bool:
        """Whether the node reads a trained parameter."""
        return node.name in self._specs and self._specs[node.name].kind is InputKind.PARAMETER

    @contextlib.contextmanager
    def before(self, node: Node) -> Iterator[None]:
        """Where `call` adds nodes; they are of the same module as `node`."""
        outer, self._origin = self._origin, node
        try:
            with self.graph.inserting_before(node):
                yield
        finally:
            self._origin = outer

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Add a call of an ATen operator, with its shape and dtype worked out."""
        node = self.graph.call_function(target, args, kwargs)
        self.evaluate_again(node)
        return node

    def evaluate_again(self, node: Node) -> None:
        """Work out what a call gives, after it was made or changed by hand."""
        if self._origin is not None and "nn_module_stack" in self._origin.meta:
            node.meta["nn_module_stack"] = self._origin.meta["nn_module_stack"]
        node.meta["val"] = self._evaluate(node)
        self._evaluated_on[node] = _layouts_read(node)

    def add_tensor(self, path: str, value: torch.Tensor, *, parameter: bool = False) -> Node:
        """Give the graph one more parameter or (persistent) buffer.

        Args:
            path: its dotted name; a number is appended where that is taken.
            value: what it holds; the caller gives it away.
            parameter: whether it counts as trained.
        """
        path = _unused(path, self._state.keys() | self._constants.keys())
        kind = InputKind.PARAMETER if parameter else InputKind.BUFFER
        node = self._placeholder(_PREFIX[kind] + path.replace(".", "_").lower(), kind)
        self._specs[node.name] = InputSpec(
            kind=kind,
            arg=TensorArgument(name=node.name),
            target=path,
            persistent=None if parameter else True,
        )
        self._store(node, path, value, parameter=parameter)
        return node

    def with_value(self, node: Node, user: Node, value: torch.Tensor) -> Node:
        """A placeholder that holds `value` where `user` read `node`.

        It is `node` itself, under its own name, when `user` is all that reads it; otherwise a new one,
        so that the others keep what they had.
        """
        if set(node.users) != {user}:
            return self.add_tensor(self.path(node), value, parameter=self.is_parameter(node))
        self.set_value(node, value)
        return node

    def set_value(self, node: Node, value: torch.Tensor) -> None:
        """Let a parameter, buffer or constant hold another tensor, for all that read it.

        Where shapes change, those of all that follows are worked out again by `finish`.
        """
        parameter = self.is_parameter(node)
        self._constants.pop(self.path(node), None)
        if not parameter:
            self._specs[node.name] = replace(self._specs[node.name], kind=InputKind.BUFFER, persistent=True)
        self._store(node, self.path(node), value, parameter=parameter)

    def replace(self, old: Node, new: Node) -> None:
        """Let `new` take the place of `old` everywhere.

        Raises:
            AssertionError: when the two differ in shape or dtype: the rewrite is wrong.
        """
        before, after = old.meta["val"], new.meta["val"]
        if not (same_shape(shape_of(old), shape_of(new)) and before.dtype == after.dtype):
            raise AssertionError(
                f"{old.format_node()} gives {before.dtype} {tuple(before.shape)}, "
                f"its replacement {new.format_node()} {after.dtype} {tuple(after.shape)}"
            )
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def add_output(self, node: Node, name: str) -> None:
        """Return one more tensor, after the others, under a name of its own on the card."""
        self.graph.output_node().args = ((*self.results, node),)
        self._outputs = (*self._outputs, name)
        self._output_specs.append(_output_spec())

    def add_input(self, name: str, shape: Shape, dtype: torch.dtype) -> Node:
        """Take one more tensor, after the others, under a name of its own on the card.

        Once a graph takes others, it no longer takes what nothing in it reads.

        Args:
            name: on the card.
            shape: of the tensor, which lies dense in memory; the batch in front, as `batch` has it.
            dtype: of its values.
        """
        node = self._placeholder(name, InputKind.USER_INPUT)
        self._specs[node.name] = InputSpec(
            kind=InputKind.USER_INPUT, arg=TensorArgument(name=node.name), target=None
        )
        node.meta["val"] = self.evaluate(aten.empty.memory_format, (list(shape),), {"dtype": dtype})
        self._inputs[node.name] = name
        self._takes_others = True
        return node

    def set_outputs(self, outputs: Mapping[str, Node]) -> None:
        """Return other tensors than before, under the names that they are to have on the card."""
        self.graph.output_node().args = (tuple(outputs.values()),)
        self._outputs = tuple(outputs)
        self._output_specs = [_output_spec() for _ in outputs]

    def finish(self, name: str, **measured: int) -> Program:
        """The edited program, its card one step longer.

        Args:
            name: of the rewrite.
            measured: what to write in the step besides, such as how many places changed.
        """
        return self.finish_as(Step(name=name, measured=dict(measured)))

    def finish_as(self, step: Step) -> Program:
        """The edited program, its card longer by a step."""
        # Attention, which could drop at random, would stay for that alone.
        self.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
        self._drop_unused_tensors()
        self._propagate_shapes()
        self.graph.lint()
        exported, names = self._program.exported, {spec.target for spec in self._specs.values()}
        rewritten = ExportedProgram(
            root=exported.graph_module,
            graph=self.graph,
            graph_signature=self._signature(),
            state_dict={path: value for path, value in self._state.items() if path in names},
            range_constraints=dict(exported.range_constraints),
            module_call_graph=self._call_graph(),
            example_inputs=self._example_inputs(),
            constants={path: value for path, value in self._constants.items() if path in names},
            verifiers=exported.verifiers,
        )
        card = self._program.card.with_step(step)
        ends = {"inputs": tuple(self._inputs.values()), "outputs": self._outputs}
        program = Program(rewritten, card.model_copy(update=ends))
        if program.batch != self._program.batch:
            raise AssertionError(f"{step.name} fixed the batch of {program.card.name} at {program.batch}")
        return program

    def _store(self, node: Node, path: str, value: torch.Tensor, *, parameter: bool) -> None:
        value = value.detach().contiguous()
        self._state[path] = torch.nn.Parameter(value, requires_grad=False) if parameter else value
        node.meta["val"] = self._fake_mode.from_tensor(value, static_shapes=True)

    def _placeholder(self, name: str, kind: InputKind) -> Node:
        with self._after_placeholders_of(kind):
            node = self.graph.placeholder(name)
        # The node's name differs where `name` was taken. The generated function calls its argument by the
        # target, and would read one argument under the name of another.
        node.target = node.name
        return node

    def _after_placeholders_of(self, kind: InputKind) -> Any:
        for node in self.graph.find_nodes(op="placeholder"):
            if _PLACEHOLDER_ORDER[self._specs[node.name].kind] > _PLACEHOLDER_ORDER[kind]:
                return self.graph.inserting_before(node)
        return self.graph.inserting_after(node)

    def _evaluate(self, node: Node) -> Any:
        return self.evaluate(node.target, node.args, node.kwargs)

    def evaluate(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What a call would give, as fake tensors: its shape and dtype, without adding it."""
        args, kwargs = torch.fx.map_arg((args, kwargs), lambda argument: argument.meta["val"])
        if target is operator.getitem:
            return args[0][args[1]]
        shapes = self._fake_mode.shape_env
        # A kernel that asks "is the batch below 16?" must not leave that as a condition on the program.
        unconditional = contextlib.nullcontext() if shapes is None else shapes.suppress_guards()
        with self._fake_mode, torch.no_grad(), unconditional:
            return target(*args, **kwargs)

    def _propagate_shapes(self) -> None:
        """Strides change where copies were dropped; a node that minds fails here and not on the device."""
        for node in self.graph.nodes:
            if not (isinstance(node.target, OpOverload) or node.target is operator.getitem):
                continue
            if _layouts_read(node) != self._evaluated_on[node]:
                node.meta["val"] = self._evaluate(node)

    def _drop_unused_tensors(self) -> None:
        for node in self.graph.find_nodes(op="placeholder"):
            kind = self._specs[node.name].kind
            droppable = (*_PREFIX, InputKind.CONSTANT_TENSOR)
            if self._takes_others:
                droppable = (*droppable, InputKind.USER_INPUT)
            if not node.users and kind in droppable:
                del self._specs[node.name]
                self._inputs.pop(node.name, None)
                self.graph.erase_node(node)

    def _example_inputs(self) -> Any:
        if not self._takes_others:
            return self._program.exported.example_inputs
        nodes = {node.name: node for node in self.graph.find_nodes(op="placeholder")}
        values = (nodes[name].meta["val"] for name in self._inputs)
        batch = self._program.batch or 2
        return tuple(torch.zeros(batch, *value.shape[1:], dtype=value.dtype) for value in values), {}

    def _call_graph(self) -> list[ModuleCallEntry]:
        """How the module is called: where its ends are others, it takes and returns plain tensors."""
        entry, *inner = self._program.exported.module_call_graph
        signature = entry.signature
        if signature is None:
            return [entry, *inner]
        changed = self._outputs != self._program.card.outputs
        if signature.outputs or changed:
            # A program that outputs were added to before names its results here: they may be others now.
            outputs = [TensorArgument(name=node.name) for node in self.results]
            signature = replace(signature, outputs=outputs)
        if changed:
            signature = replace(signature, out_spec=pytree.tree_structure((0,) * len(self.results)))
        if self._takes_others:
            signature = replace(
                signature,
                inputs=[TensorArgument(name=name) for name in self._inputs],
                in_spec=pytree.tree_structure(((0,) * len(self._inputs), {})),
                forward_arg_names=list(self._inputs),
            )
        return [replace(entry, signature=signature), *inner]

    def _signature(self) -> ExportGraphSignature:
        outputs = [
            replace(spec, arg=replace(spec.arg, name=node.name)) if isinstance(node, Node) else spec
            for spec, node in zip(self._output_specs, self.results, strict=True)
        ]
        inputs = [self._specs[node.name] for node in self.graph.find_nodes(op="placeholder")]
        return ExportGraphSignature(input_specs=inputs, output_specs=outputs)


def shape_of(node: Node) -> Shape:
    """The shape of a node's tensor, the batch symbolic where it is dynamic."""
    return tuple(node.meta["val"].shape)


def same_size(left: Size, right: Size) -> bool:
    """Whether two sizes are equal whatever the batch."""
    return _expression(left) == _expression(right) or statically_known_true(left == right)


def same_shape(left: Shape, right: Shape) -> bool:
    """Whether two shapes are equal whatever the batch."""
    return len(left) == len(right) and all(map(same_size, left, right))


def constant_shape(shape: Shape) -> list[int] | None:
    """A shape as reshape's argument: numbers, and -1 for the one size that depends on the batch.

    None where more than one does.
    """
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return sizes if sizes.count(-1) <= 1 else None


def is_call(node: Node, targets: Collection[Any]) -> bool:
    """Whether the node calls one of the given operators."""
    return node.op == "call_function" and node.target in targets


def calls(graph: Graph, targets: Collection[Any]) -> list[Node]:
    """The graph's calls of the given operators, in order."""
    return [node for node in graph.nodes if is_call(node, targets)]


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """What nodes are computed from, themselves among it."""
    found, pending = set[Node](), list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def module_path(node: Node) -> str:
    """The dotted path of the module that a node comes from; empty where the graph does not say."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def shared_path(nodes: Iterable[Node]) -> str:
    """The innermost module that all of the nodes come from, as a dotted path; empty for the model itself."""
    paths = [module_path(node).split(".") for node in nodes if node.meta.get("nn_module_stack")]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _layouts_read(node: Node) -> list[object]:
    return [_layout(source.meta.get("val")) for source in node.all_input_nodes]


def _layout(value: Any) -> object:
    """What a result's own shape and strides can depend on."""
    if isinstance(value, torch.Tensor):
        sizes = (*value.shape, *value.stride())
        return (value.dtype, *map(_expression, sizes))
    return [_layout(part) for part in value] if isinstance(value, tuple | list) else _expression(value)


def _output_spec() -> OutputSpec:
    return OutputSpec(kind=OutputKind.USER_OUTPUT, arg=TensorArgument(name=""), target=None)


def _expression(size: Any) -> object:
    # Comparing symbolic sizes themselves asks the shape environment, and may make it decide.
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _fake_mode(graph: Graph) -> FakeTensorMode:
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    raise AssertionError("the graph has no tensor among its placeholders")


def _unused(path: str, taken: set[str]) -> str:
    number, candidate = 0, path
    while candidate in taken:
        number += 1
        candidate = f"{path}_{number}"
    return candidate
