"""What depends on no image is computed once, here, instead of on every run of the device."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from edgevit.graph.program import Program
from edgevit.graph.rewrites.make_functional import written_to
from edgevit.graph.rewriting import Editor, is_call, same_shape

aten = torch.ops.aten

# Stored for the sake of folding, at most: a gather from a small table can give a large one.
MAX_GROWTH = 16 * 2**20

# Of so many images at once: what each of them has in all of these, it has always.
_BATCHES = (1, 2, 3)
_ROUNDING = 1e-6
_EXPANSIONS = frozenset({aten.expand.default, aten.expand_as.default})
# Between sizes.
_ARITHMETIC = frozenset({operator.add, operator.sub, operator.mul, operator.floordiv})

_NAME = "fold_constants"
_GROWTH = "growth_bytes"


@dataclass(frozen=True)
class _Candidate:
    """A constant that something non-constant reads.

    Attributes:
        node: what computes it.
        value: what it computes, for one image.
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

    Likewise for position embeddings resized to the grid, masks made of ``arange``, and what is the same for
    every image of a batch, which is stored once and copied for it. Given::

        zeros (batch, 8, 8) -> ones that are counted -> sines -> conv2d -> add to the image's

    Result::

        constant (1, 64, 8, 8) -> expand to the batch -> add to the image's

    Not folded: what differs between images or between batches, depends on chance or on a tensor that is
    written to in place; an ``expand``, which is cheaper done than stored; operators from outside ATen
    (quantise, dequantise: their point is the small tensor before them); and whatever would make the program
    more than `max_growth` bytes larger, all its foldings taken together, the smallest first.

    Args:
        program: what to fold in.
        max_growth: bytes.
    """
    editor = Editor(program)
    spent = _spent(program)
    growth = changed = 0
    for candidate in sorted(_candidates(editor), key=lambda candidate: candidate.growth):
        if candidate.growth > max_growth - spent - growth:
            break
        growth += max(candidate.growth, 0)
        _store(editor, candidate)
        changed += 1
    return editor.finish(_NAME, changed=changed, **{_GROWTH: growth}) if changed else program


def _spent(program: Program) -> int:
    """What earlier foldings, which the card tells of, added."""
    steps = (step.measured for step in program.card.steps if step.name == _NAME)
    return sum(int(str(measured.get(_GROWTH, 0))) for measured in steps)


def _store(editor: Editor, candidate: _Candidate) -> None:
    node = candidate.node
    constant = editor.add_tensor(_path(editor, node), candidate.value)
    if _has_batch(editor, node):
        batch = next(size for size in editor.graph.nodes if _is_batch(editor, size))
        with editor.before(node):
            sizes = [batch, *candidate.value.shape[1:]]
            constant = editor.call(aten.expand.default, constant, sizes)
    editor.replace(node, constant)


def _is_computable(editor: Editor, node: Node) -> bool:
    if node.op != "call_function" or not node.users:
        return False
    if node.target is operator.getitem or node.target in _ARITHMETIC:
        return True
    return (
        isinstance(node.target, OpOverload)
        and node.target.namespace == "aten"
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and not _enlarges_by_expanding(editor, node)
    )


def _is_batch(editor: Editor, node: Node) -> bool:
    """Whether it gives the number of images."""
    return is_call(node, {aten.sym_size.int}) and node.args == (editor.image, 0)


def _has_batch(editor: Editor, node: Node) -> bool:
    """Whether it gives a tensor of one row for each of a number of images that is open."""
    value = node.meta["val"]
    rows = value.shape[:1] if isinstance(value, torch.Tensor) else ()
    return any(isinstance(size, torch.SymInt) for size in rows) and same_shape(rows, (editor.batch,))


def _enlarges_by_expanding(editor: Editor, node: Node) -> bool:
    """Whether it is an expansion that takes more bytes than its source, for one image."""
    if not is_call(node, _EXPANSIONS):
        return False
    source, shape = node.all_input_nodes[0], node.meta["val"].shape
    each = shape[1:] if _has_batch(editor, node) else shape
    return bool(math.prod(each) != source.meta["val"].numel())


def _candidates(editor: Editor) -> list[_Candidate]:
    values = _evaluated(editor)
    ends = _ends(editor.graph, values.keys())
    return [
        _Candidate(node, found[0], _bytes(found[0]) - _freed(editor, node, ends))
        for node, found in values.items()
        if node.op == "call_function"
        and isinstance(found[0], torch.Tensor)
        and not values.keys() >= node.users.keys()
        and not _is_copied_only(editor, node)
    ]


def _is_copied_only(editor: Editor, node: Node) -> bool:
    """Whether it is a stored tensor, copied for the batch: what would be made of it."""
    source = node.all_input_nodes[0] if node.all_input_nodes else node
    return is_call(node, _EXPANSIONS) and _has_batch(editor, node) and source.op == "placeholder"


def _ends(graph: Graph, constants: Collection[Node]) -> dict[Node, set[Node]]:
    """For each constant, the constants read by non-constant nodes that it takes part in (or is)."""
    ends: dict[Node, set[Node]] = {}
    for node in reversed(graph.nodes):
        if node in constants:
            ends[node] = {end for user in node.users if user in constants for end in ends[user]}
            if any(user not in constants for user in node.users):
                ends[node].add(node)
    return ends


def _freed(editor: Editor, node: Node, ends: dict[Node, set[Node]]) -> int:
    """Bytes of the stored tensors that nothing needs once `node` is folded."""
    stored = (source for source, reached in ends.items() if reached == {node})
    return sum(_bytes(value) for source in stored if (value := editor.value(source)) is not None)


def _evaluated(editor: Editor) -> dict[Node, tuple[Any, ...]]:
    """The stored tensors, and what is computed from them and the number of images alone, for each of some."""
    written = written_to(editor.graph)
    values: dict[Node, tuple[Any, ...]] = {}
    with torch.no_grad():
        for node in editor.graph.nodes:
            stored = editor.value(node)
            if node in written:
                continue
            if stored is not None:
                values[node] = (stored,) * len(_BATCHES)
            elif _is_batch(editor, node):
                values[node] = _BATCHES
            elif _is_computable(editor, node) and values.keys() >= set(node.all_input_nodes):
                found = _computed(node, values)
                if _is_shared(editor, node, found):
                    values[node] = found
    return values


def _computed(node: Node, values: dict[Node, tuple[Any, ...]]) -> tuple[Any, ...]:
    """What a call gives for each number of images; once, where that is all the same."""
    same = all(values[source][0] is values[source][-1] for source in node.all_input_nodes)
    found = []
    for place in range(1 if same else len(_BATCHES)):
        sources = {source: values[source][place] for source in node.all_input_nodes}
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), sources.__getitem__)
        found.append(node.target(*args, **kwargs))  # type: ignore[operator]
    return tuple(found) * (len(_BATCHES) if same else 1)


def _is_shared(editor: Editor, node: Node, found: tuple[Any, ...]) -> bool:
    """Whether every image has the same of it, whatever their number."""
    first = found[0]
    if not isinstance(first, torch.Tensor) or first is found[-1]:
        return True
    if not _has_batch(editor, node):
        return all(torch.equal(first, other) for other in found)
    return first.shape[0] == 1 and all(_is_near(first.expand_as(other), other) for other in found)


def _is_near(first: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two are equal, but for the order in which a kernel adds up, which depends on the batch."""
    if torch.equal(first, other):
        return True
    return first.is_floating_point() and bool((first - other).abs().max() <= _ROUNDING * first.abs().max())


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _path(editor: Editor, node: Node) -> str:
    """A name for the result: after the first tensor it is computed from, where there is one."""
    source = node
    while source.all_input_nodes:
        source = source.all_input_nodes[0]
    stored = editor.value(source) is not None
    return f"{editor.path(source)}_folded" if stored else f"constant_{node.name}"
