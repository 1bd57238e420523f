"""Stages of a quantized Program that take and give integers, as runtimes can be given them.

A cut between a quantizer and a dequantizer sends integers: one stage ends in the quantizer, the next
begins with the dequantizer. Runtimes make integer kernels of what stands between a dequantizer and a
quantizer that they see in one file, in the type that they like best. The rewrites here complete such
pairs, and change no number: what a dequantizer gives of an integer, a quantizer of the same grid makes
the same integer of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from edgevit.export.quantized import DEQUANTIZE, QUANTIZE
from edgevit.graph.crossing import grid_of
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, is_call


def integer_inputs(program: Program) -> tuple[str, ...]:
    """The inputs that are integers of a grid, by their names on the card."""
    nodes = zip(program.card.inputs, program.inputs, strict=True)
    return tuple(name for name, node in nodes if _limits(node) is not None)


def integer_outputs(program: Program) -> tuple[str, ...]:
    """The outputs that are integers of a grid, by their names on the card."""
    nodes = zip(program.card.outputs, Editor(program).results, strict=True)
    return tuple(name for name, node in nodes if _limits(node) is not None)


def requantize_ends(program: Program) -> Program:
    """The program with a pair of quantizers behind each integer input and before each integer output.

    Given::

        integers -> dequantize -> .. -> quantize -> integers

    Result::

        integers -> dequantize -> quantize -> dequantize -> ..
                 .. -> quantize -> dequantize -> quantize -> integers

    so that the pairs inside can be of another type than the ends.
    """
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    first = next(node for node in editor.graph.nodes if node.op != "placeholder")
    changed = 0
    for node in (nodes[given.name] for given in program.inputs):
        limits = _limits(node)
        if limits is not None:
            readers = list(node.users)
            with editor.before(first):
                again = editor.call(QUANTIZE, editor.call(DEQUANTIZE, node, *limits), *limits)
            for reader in readers:
                reader.replace_input_with(node, again)
            changed += 1
    results = []
    with editor.before(editor.graph.output_node()):
        for node in editor.results:
            limits = _limits(node)
            results.append(node if limits is None else _again(editor, node, limits))
            changed += limits is not None
    editor.graph.output_node().args = (tuple(results),)
    return editor.finish("requantize_ends", changed=changed) if changed else program


def with_float_ends(program: Program) -> Program:
    """The program that takes and gives floats in the place of integers: those that they stand for."""
    if not (integer_inputs(program) or integer_outputs(program)):
        return program
    editor = Editor(program)
    nodes = {node.name: node for node in editor.graph.nodes}
    first = next(node for node in editor.graph.nodes if node.op != "placeholder")
    with editor.before(first):
        # All of them anew, which keeps their order.
        for name, given in zip(program.card.inputs, program.inputs, strict=True):
            node = nodes[given.name]
            value, limits = node.meta["val"], _limits(node)
            dtype = value.dtype if limits is None else torch.float32
            taken = editor.add_input(name, tuple(value.shape), dtype)
            editor.replace(node, taken if limits is None else editor.call(QUANTIZE, taken, *limits))
    outputs = {}
    with editor.before(editor.graph.output_node()):
        for name, node in zip(program.card.outputs, editor.results, strict=True):
            limits = _limits(node)
            outputs[name] = node if limits is None else editor.call(DEQUANTIZE, node, *limits)
    editor.set_outputs(outputs)
    return editor.finish("with_float_ends")


def _again(editor: Editor, node: Node, limits: tuple[Any, ...]) -> Node:
    # A dequantizer that is there already would be merged with another by whoever reads the graph.
    there = next((user for user in node.users if is_call(user, [DEQUANTIZE])), None)
    return editor.call(QUANTIZE, there or editor.call(DEQUANTIZE, node, *limits), *limits)


def _limits(node: Node) -> tuple[Any, ...] | None:
    """The arguments that follow the tensor in the quantizer of integers; None for what is none."""
    grid = grid_of(node)
    return None if grid is None else (*grid, node.meta["val"].dtype)
