"""What depends on no input is computed once, here, instead of on every run of the device."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import in_place_calls, shared_memory
from edgevit.graph.rewriting import Editor

aten = torch.ops.aten

# Stored for the sake of folding, at most: a gather from a small table can give a large one.
MAX_GROWTH = 16 * 2**20

_NAME = "fold_constants"
_GROWTH = "growth_bytes"


@dataclass(frozen=True)
class _Candidate:
    """A constant that something non-constant reads.

    Attributes:
        node: what computes it.
        value: what it computes.
        growth: bytes that storing it adds, less those of the tensors that only it was computed from.
    """

    node: Node
    value: torch.Tensor
    growth: int


def fold_constants(program: Program, *, max_growth: int = MAX_GROWTH) -> Program:
    """Compute sub-graphs of weights, buffers and numbers, and store their results as buffers.

    Given::

        table (169, 3) -> index -> view -> permute -> add to the attention scores

    Result::

        table_folded (1, 3, 49, 49) -> add to the attention scores

    Likewise for position embeddings resized to the grid, and masks made of ``arange``. Not folded: what
    depends on the batch, on chance or on a tensor that is written to in place; an ``expand``, which is
    cheaper done than stored; operators from outside ATen (quantise, dequantise: their point is the small
    tensor before them); and whatever would make the program more than `max_growth` bytes larger, all its
    foldings taken together, the smallest first.

    Args:
        program: what to fold in.
        max_growth: bytes.
    """
    editor = Editor(program)
    constants = _constants(editor)
    spent = _spent(program)
    growth = changed = 0
    for candidate in sorted(_candidates(editor, constants), key=lambda candidate: candidate.growth):
        if candidate.growth > max_growth - spent - growth:
            break
        growth += max(candidate.growth, 0)
        editor.replace(candidate.node, editor.add_tensor(_path(editor, candidate.node), candidate.value))
        changed += 1
    return editor.finish(_NAME, changed=changed, **{_GROWTH: growth}) if changed else program


def _spent(program: Program) -> int:
    """What earlier foldings, which the card tells of, added."""
    steps = (step.measured for step in program.card.steps if step.name == _NAME)
    return sum(int(str(measured.get(_GROWTH, 0))) for measured in steps)


def _constants(editor: Editor) -> set[Node]:
    """The stored tensors, and the nodes that can be computed from them alone."""
    written = _written_to(editor.graph)
    constants: set[Node] = set()
    for node in editor.graph.nodes:
        is_stored = node.op == "placeholder" and editor.value(node) is not None
        if node not in written and (
            is_stored or (_is_computable(node) and constants.issuperset(node.all_input_nodes))
        ):
            constants.add(node)
    return constants


def _written_to(graph: Graph) -> set[Node]:
    groups = (shared_memory(graph, node) for node in in_place_calls(graph))
    return {node for group in groups for node in group}


def _is_computable(node: Node) -> bool:
    if node.op != "call_function" or not node.users:
        return False
    if node.target is operator.getitem:
        return True
    return (
        isinstance(node.target, OpOverload)
        and node.target.namespace == "aten"
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and not _enlarges_by_expanding(node)
    )


def _enlarges_by_expanding(node: Node) -> bool:
    if node.target not in (aten.expand.default, aten.expand_as.default):
        return False
    source = node.args[0]
    return bool(isinstance(source, Node) and node.meta["val"].numel() != source.meta["val"].numel())


def _candidates(editor: Editor, constants: set[Node]) -> list[_Candidate]:
    ends = _ends(editor.graph, constants)
    values = _evaluated(editor, constants)
    return [
        _Candidate(node, values[node], _bytes(values[node]) - _freed(editor, node, ends))
        for node in constants
        if node.op == "call_function"
        and isinstance(values[node], torch.Tensor)
        and not constants.issuperset(node.users)
    ]


def _ends(graph: Graph, constants: set[Node]) -> dict[Node, set[Node]]:
    """For each constant, the constants read by non-constant nodes that it takes part in (or is)."""
    ends: dict[Node, set[Node]] = {}
    for node in reversed(graph.nodes):
        if node in constants:
            ends[node] = {end for user in node.users if user in constants for end in ends[user]}
            if not constants.issuperset(node.users):
                ends[node].add(node)
    return ends


def _freed(editor: Editor, node: Node, ends: dict[Node, set[Node]]) -> int:
    """Bytes of the stored tensors that nothing needs once `node` is folded."""
    stored = (source for source, reached in ends.items() if reached == {node})
    return sum(_bytes(value) for source in stored if (value := editor.value(source)) is not None)


def _evaluated(editor: Editor, constants: set[Node]) -> dict[Node, torch.Tensor]:
    values: dict[Node, torch.Tensor] = {}
    with torch.no_grad():
        for node in editor.graph.nodes:
            if node not in constants:
                continue
            stored = editor.value(node)
            if stored is not None:
                values[node] = stored
            elif callable(node.target):
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    return values


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _path(editor: Editor, node: Node) -> str:
    """A name for the result: after the first tensor it is computed from, where there is one."""
    source = node
    while source.all_input_nodes:
        source = source.all_input_nodes[0]
    return f"{editor.path(source)}_folded" if source.op == "placeholder" else f"constant_{node.name}"
