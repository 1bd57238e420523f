"""What Core ML's image input and its classifiers leave to the graph."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgevit.graph.card import Card, Preprocessing
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor

aten = torch.ops.aten

PROBABILITIES_NAME = "probabilities"


def graph_std(preprocessing: Preprocessing) -> tuple[float, ...] | None:
    """The division that an image input cannot do, having one scale for all channels."""
    return None if len(set(preprocessing.std)) == 1 else preprocessing.std


def classifies(card: Card) -> bool:
    """Whether an image package is a classifier: where its classes have names."""
    return card.labels is not None


def for_image_input(program: Program) -> Program:
    """The program behind an image input, as one more output of probabilities where it is a classifier.

    Given that the input scales all channels alike and shifts each::

        logits = network(image / std); probabilities = softmax(logits)
    """
    editor = Editor(program)
    std, changed = graph_std(program.card.preprocessing), 0
    if std is not None:
        _divide(editor, editor.image, std)
        changed += 1
    if classifies(program.card):
        (logits, *_) = editor.results
        with editor.before(editor.graph.output_node()):
            editor.add_output(editor.call(aten.softmax.int, logits, -1), PROBABILITIES_NAME)
        changed += 1
    return editor.finish("for_image_input", changed=changed) if changed else program


def _divide(editor: Editor, image: Node, std: tuple[float, ...]) -> None:
    divisor = editor.add_tensor("image_std", torch.tensor(std).reshape(-1, 1, 1))
    with editor.before(image.next):
        divided = editor.call(aten.div.Tensor, image, divisor)
    image.replace_all_uses_with(divided, delete_user_cb=lambda user: user is not divided)
