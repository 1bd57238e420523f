"""Tubelet embeddings: a 3-D convolution whose steps in time do not overlap is a 2-D one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls, shape_of

aten = torch.ops.aten


@dataclass(frozen=True)
class _Geometry:
    """The arguments of a conv3d, each (time, height, width)."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def conv3d_to_conv2d(program: Program) -> Program:
    """Replace conv3d by conv2d where its windows neither overlap nor pad in time.

    Given (kernel and stride k in time; ViViT's tubelets, arXiv 2103.15691, section 3.2; VideoMAE's cubes)::

        conv3d(x: (b, c, t, h, w), W: (o, c, k, p, q))            -> (b, o, t/k, h', w')

    Result, the k frames of a tubelet being k c channels of one image::

        x -> permute, reshape (b t/k, k c, h, w) -> conv2d with W as (o, k c, p, q)
          -> reshape (b, t/k, o, h', w') -> permute (b, o, t/k, h', w')

    Frames past the last whole tubelet, which conv3d ignores, are cut off. Grouped convolutions and those
    that pad, dilate or overlap in time are left alone.
    """
    editor = Editor(program)
    changed = sum(_rewrite(editor, node) for node in calls(editor.graph, [aten.conv3d.default]))
    return editor.finish("conv3d_to_conv2d", changed=changed) if changed else program


def _rewrite(editor: Editor, node: Node) -> bool:
    frames, weight = node.args[:2]
    geometry = _geometry(node)
    value = editor.value(weight)
    if value is None or not isinstance(frames, Node) or not isinstance(weight, Node):
        return False
    filters, channels, depth, *kernel = value.shape
    if not _is_tubelet(geometry, depth) or len(shape_of(frames)) != 5:
        return False
    time, height, width = (int(size) for size in shape_of(frames)[2:])
    tubelets, rows, columns = (int(size) for size in shape_of(node)[2:])
    flat = value.permute(0, 2, 1, 3, 4).reshape(filters, depth * channels, *kernel)
    flat_weight = editor.with_value(weight, node, flat)
    bias = node.args[2] if len(node.args) > 2 else None
    with editor.before(node):
        if time != tubelets * depth:
            frames = editor.call(aten.slice.Tensor, frames, 2, 0, tubelets * depth)
        by_time = editor.call(aten.permute.default, frames, [0, 2, 1, 3, 4])
        images = editor.call(aten.reshape.default, by_time, [-1, depth * channels, height, width])
        spatial = [part[1:] for part in (geometry.stride, geometry.padding, geometry.dilation)]
        planes = editor.call(aten.conv2d.default, images, flat_weight, bias, *spatial)
        batched = editor.call(aten.reshape.default, planes, [-1, tubelets, filters, rows, columns])
        result = editor.call(aten.permute.default, batched, [0, 2, 1, 3, 4])
    editor.replace(node, result)
    editor.graph.erase_node(node)
    return True


def _geometry(node: Node) -> _Geometry:
    defaults: tuple[Any, ...] = ([1], [0], [1], 1)
    given: tuple[Any, ...] = node.args[3:]
    stride, padding, dilation, groups = given + defaults[len(given) :]
    return _Geometry(_triple(stride), _triple(padding), _triple(dilation), groups)


def _triple(sizes: list[int]) -> list[int]:
    return [*sizes] * 3 if len(sizes) == 1 else [*sizes]


def _is_tubelet(geometry: _Geometry, depth: int) -> bool:
    return (
        geometry.stride[0] == depth
        and geometry.padding[0] == 0
        and (geometry.dilation[0] == 1 or depth == 1)
        and geometry.groups == 1
    )
