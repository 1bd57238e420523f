"""A channel shuffle is a reshape, a permute and a reshape."""

from __future__ import annotations

import math
from typing import Any

import torch

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, constant_shape, shape_of

aten = torch.ops.aten


def spell_out_channel_shuffle(program: Program) -> Program:
    """Replace ``channel_shuffle(x, groups)``, which not every converter knows.

    Result (ShuffleNet, arXiv 1707.01083, section 3.1)::

        x (b, g n, h, w) -> reshape (b, g, n, h w) -> transpose (b, n, g, h w) -> reshape (b, g n, h, w)
    """
    editor = Editor(program)
    found = calls(editor.graph, [aten.channel_shuffle.default])
    for node in found:
        arguments: tuple[Any, ...] = node.args
        source, groups = arguments
        batch, channels, *grid = shape_of(node)
        shape = constant_shape((batch, groups, int(channels) // groups, math.prod(grid)))
        with editor.before(node):
            grouped = editor.call(aten.reshape.default, source, shape)
            swapped = editor.call(aten.permute.default, grouped, [0, 2, 1, 3])
            result = editor.call(aten.reshape.default, swapped, constant_shape(shape_of(node)))
        editor.replace(node, result)
    return editor.finish("spell_out_channel_shuffle", changed=len(found)) if found else program
