"""Bicubic resizing of images as two matrix products, for targets that have no such operator."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, shape_of

aten = torch.ops.aten


def resize_to_matmul(program: Program) -> Program:
    """Replace ``upsample_bicubic2d`` by a product with one constant matrix per direction.

    Given (CrossViT resizes its image for the second branch, arXiv 2103.14899)::

        upsample_bicubic2d(x: (b, c, h, w))  -> (b, c, h', w')

    Result::

        rows (h', h) @ x @ columns (w, w')

    Resizing is linear in the image and the same for every row and every column, so its matrices are
    what it makes of the identity. A resize by a factor and one to a size differ only in these.
    """
    editor = Editor(program)
    found = calls(editor.graph, [aten.upsample_bicubic2d.vec])
    for node in found:
        _rewrite(editor, node)
    return editor.finish("resize_to_matmul", changed=len(found)) if found else program


def _rewrite(editor: Editor, node: Node) -> None:
    image = node.all_input_nodes[0]
    rows = editor.add_tensor(f"{node.name}_rows", _matrix(node, image, 2))
    columns = editor.add_tensor(f"{node.name}_columns", _matrix(node, image, 3).T)
    with editor.before(node):
        across = editor.call(aten.matmul.default, image, columns)
        editor.replace(node, editor.call(aten.matmul.default, rows, across))


def _matrix(node: Node, image: Node, axis: int) -> torch.Tensor:
    """(new size, old size): the resize of each unit vector along one axis."""
    arguments: tuple[Any, ...] = node.args
    _, output_size, align_corners, scale_factors = arguments
    old, new = int(shape_of(image)[axis]), int(shape_of(node)[axis])
    factor = None if output_size is not None else scale_factors[axis - 2]
    # One column that stays one wide: only the rows are resized.
    identity = torch.eye(old).reshape(1, old, old, 1)
    resized: torch.Tensor = F.interpolate(
        identity,
        size=(new, 1) if factor is None else None,
        scale_factor=None if factor is None else (factor, 1.0),
        mode="bicubic",
        align_corners=align_corners,
    )
    return resized.reshape(old, new).T
