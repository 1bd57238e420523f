"""A classifier's last layer: told to give what it reads as well, or to answer for some of its classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.axes import LAYERS, stored_tensors
from edgevit.graph.card import Card, Step
from edgevit.graph.program import Program
from edgevit.graph.rewrites.merge_reshapes import RESHAPES
from edgevit.graph.rewriting import Editor, is_call, shape_of

aten = torch.ops.aten

FEATURES = "features"
OTHER = "other"

# What may stand between the classifier and the result: it moves values and changes none.
_PASSES_ON = frozenset(
    {
        *RESHAPES,
        aten.alias.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.detach_.default,
    }
)


def classifier_of(program: Program) -> Node:
    """The linear layer, or convolution of one pixel, that gives the first result.

    Raises:
        EdgevitError: when something else gives it, such as the mean of two classifiers.
    """
    names = set(program.exported.graph_signature.user_outputs[:1])
    node: Node = next(node for node in program.graph.nodes if node.name in names)
    while is_call(node, _PASSES_ON):
        node = node.all_input_nodes[0]
    stored = {placeholder for placeholder, _, _ in stored_tensors(program)}
    if not (
        is_call(node, LAYERS)
        and not node.kwargs
        and stored.issuperset(node.all_input_nodes[1:])
        and _is_one_vector(node)
        and _is_one_vector(node.all_input_nodes[0])
        and node.all_input_nodes[1].meta["val"].shape[0] == program.num_classes
    ):
        raise EdgevitError(
            f"{program.card.name}: its first output is made by {node.name}, not by one linear layer that "
            f"gives {program.num_classes} logits, so its classes cannot be told apart by rows of a weight"
        )
    return node


def weights_of_classifier(program: Program) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (classes, width) and the bias (classes,) of the classifier; zeros where it has no bias.

    Raises:
        EdgevitError: when there is no classifier (`classifier_of`).
    """
    layer = classifier_of(program)
    stored = {node: value.detach() for node, _, value in stored_tensors(program)}
    weight = stored[layer.args[1]].flatten(1)  # type: ignore[index]
    bias = stored.get(layer.args[2]) if len(layer.args) > 2 else None  # type: ignore[arg-type]
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def with_features(program: Program) -> Program:
    """The program with one more output, named "features": (batch, width), what its classifier reads.

    Raises:
        EdgevitError: when it has such an output already, or no classifier (`classifier_of`).
    """
    if FEATURES in program.card.outputs:
        raise EdgevitError(f"{program.card.name}: it has an output named {FEATURES} already")
    editor = Editor(program)
    layer = _found_in(editor, classifier_of(program))
    with editor.before(layer):
        features = _flat(editor, layer.all_input_nodes[0])
    editor.add_output(features, FEATURES)
    return editor.finish("with_features")


def with_classes(program: Program, classes: Sequence[int]) -> Program:
    """The program with logits for some classes alone and, last, one for all the others.

    The kept classes keep their rows of the classifier to the bit. What "other" should answer is the
    log-sum-exp of the logits that it stands for; for n logits around their mean that is the mean plus log n,
    so its row starts as their mean row, with log n more bias. With every class kept there is no "other".

    Args:
        program: one with a classifier (`classifier_of`).
        classes: indices of those that stay, in the order that their logits are to have.

    Returns:
        The program itself where nothing changes. The labels on its card follow.

    Raises:
        EdgevitError: when there is no classifier, a class is none or repeated, or a kept label is "other".
    """
    layer = classifier_of(program)
    kept = list(classes)
    _check_classes(kept, program)
    if kept == list(range(program.num_classes)):
        return program
    editor = Editor(program)
    layer = _found_in(editor, layer)
    _set_rows(editor, layer, kept)
    with editor.before(editor.graph.output_node()):
        logits = _flat(editor, layer)
    editor.graph.output_node().args = ((logits, *editor.results[1:]),)
    exported = editor.finish("with_classes").exported
    return Program(exported, _card_of(program, kept))


def _is_one_vector(node: Node) -> bool:
    """Whether it is one vector for each image, be it spread over dimensions of size 1."""
    return sum(size != 1 for size in shape_of(node)[1:]) <= 1


def _found_in(editor: Editor, node: Node) -> Node:
    """The copy of a node."""
    found: Node = next(copy for copy in editor.graph.nodes if copy.name == node.name)
    return found


def _flat(editor: Editor, node: Node) -> Node:
    """As (batch, width)."""
    return node if len(shape_of(node)) == 2 else editor.call(aten.flatten.using_ints, node, 1)


def _check_classes(kept: Sequence[int], program: Program) -> None:
    count, labels = program.num_classes, program.card.labels
    if not kept:
        raise EdgevitError("classes: none are kept; keep one at least")
    if len(set(kept)) < len(kept) or not 0 <= min(kept) <= max(kept) < count:
        raise EdgevitError(
            f"classes: {', '.join(map(str, kept))} are to stay; each must be a class of "
            f"{program.card.name} (0 to {count - 1}) and be named once"
        )
    if labels is not None and len(kept) < count and OTHER in [labels[index] for index in kept]:
        raise EdgevitError(
            f'classes: a class of {program.card.name} is called "{OTHER}", as the rest would be; '
            "give it another label"
        )


def _set_rows(editor: Editor, layer: Node, kept: list[int]) -> None:
    """Let the layer give the kept rows, and one for the rest where there is a rest."""
    entry, _, *more = layer.args
    weight_node = layer.all_input_nodes[1]
    weight, bias = editor.stored(weight_node), editor.value(more[0]) if more else None
    bias_node = more[0] if bias is not None else None
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    others = [index for index in range(len(weight)) if index not in set(kept)]
    new_weight = editor.with_value(weight_node, layer, _rows(weight, kept, others))
    new_bias = _rows(bias, kept, others)
    if others:
        new_bias[-1] += math.log(len(others))
    if isinstance(bias_node, Node):
        new_bias_node = editor.with_value(bias_node, layer, new_bias)
    else:
        path = editor.path(weight_node).rpartition(".")[0]
        new_bias_node = editor.add_tensor(f"{path}.bias" if path else "bias", new_bias, parameter=True)
    layer.args = (entry, new_weight, new_bias_node, *more[1:])
    editor.evaluate_again(layer)


def _rows(values: torch.Tensor, kept: list[int], others: list[int]) -> torch.Tensor:
    """The kept rows, then the mean of the others."""
    rest = [values[others].double().mean(dim=0, keepdim=True).to(values.dtype)] if others else []
    return torch.cat([values[kept], *rest])


def _card_of(program: Program, kept: list[int]) -> Card:
    card = program.card.with_step(Step(name="with_classes", options={"classes": list(kept)}))
    if card.labels is None:
        return card
    rest = (OTHER,) if len(kept) < program.num_classes else ()
    return card.model_copy(update={"labels": (*(card.labels[index] for index in kept), *rest)})
