"""Patches that do not overlap are taken out, and put back, by a reshape, a permute and a reshape."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, constant_shape, shape_of

aten = torch.ops.aten


def unfold_to_reshape(program: Program) -> Program:
    """Replace ``im2col`` and ``col2im`` (unfold and fold) where the stride is the kernel.

    Given (MobileViTv2 in transformers; arXiv 2206.02680, section 3.2), for patches of p x q::

        im2col(x: (b, c, h p, w q))   -> (b, c p q, h w)
        col2im(y: (b, c p q, h w))    -> (b, c, h p, w q)

    Result::

        x -> reshape (b, c, h, p, w, q) -> permute (b, c, p, q, h, w) -> reshape (b, c p q, h w)

    and the same backwards. Their decomposition gathers, and for col2im adds up, element by element;
    TFLite has no kernel for the sum. Overlapping, padded and dilated ones are left alone.
    """
    editor = Editor(program)
    found = [node for node in calls(editor.graph, [aten.im2col.default, aten.col2im.default]) if _tiles(node)]
    for node in found:
        rewrite = _unfold if node.target is aten.im2col.default else _fold
        with editor.before(node):
            result = rewrite(editor, node)
        editor.replace(node, result)
    return editor.finish("unfold_to_reshape", changed=len(found)) if found else program


def _tiles(node: Node) -> bool:
    """Whether the windows cover an image once: side by side, without gaps and borders."""
    arguments: Any = node.args[-4:]
    kernel, dilation, padding, stride = arguments
    image = node if node.target is aten.col2im.default else node.all_input_nodes[0]
    sizes = shape_of(image)
    whole = len(sizes) == 4 and all(
        int(size) % part == 0 for size, part in zip(sizes[2:], kernel, strict=True)
    )
    return bool(whole and list(stride) == list(kernel) and set(dilation) == {1} and set(padding) == {0})


def _split(image: Node, kernel: list[int]) -> list[Any]:
    """(batch, channels, rows, patch height, columns, patch width) of an image."""
    batch, channels, height, width = shape_of(image)
    tall, wide = kernel
    return [batch, channels, int(height) // tall, tall, int(width) // wide, wide]


def _unfold(editor: Editor, node: Node) -> Node:
    image, kernel = node.all_input_nodes[0], list(node.args[1])  # type: ignore[arg-type]
    patches = editor.call(aten.reshape.default, image, constant_shape(tuple(_split(image, kernel))))
    moved = editor.call(aten.permute.default, patches, [0, 1, 3, 5, 2, 4])
    return editor.call(aten.reshape.default, moved, constant_shape(shape_of(node)))


def _fold(editor: Editor, node: Node) -> Node:
    columns, kernel = node.all_input_nodes[0], list(node.args[2])  # type: ignore[arg-type]
    batch, channels, rows, tall, across, wide = _split(node, kernel)
    shape = constant_shape((batch, channels, tall, wide, rows, across))
    patches = editor.call(aten.reshape.default, columns, shape)
    moved = editor.call(aten.permute.default, patches, [0, 1, 4, 2, 5, 3])
    return editor.call(aten.reshape.default, moved, constant_shape(shape_of(node)))
