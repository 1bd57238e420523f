"""Activations that are quantized as the model runs: each token on a grid of its own range.

No range is learned from images, and one token's outlier costs the others nothing. Runtimes call such layers
hybrid or dynamic-range quantized: weights are integers in the file, activations become integers on their way
into the kernel and floats on their way out. How a grid is chosen is PyTorch's
`choose_qparams_per_token_asymmetric`, which is made after XNNPACK's kernels.
"""

from __future__ import annotations

import operator

import torch

# Importing it declares torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
from torch.fx import Node

from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor, calls

decomposed = torch.ops.quantized_decomposed

CHOOSE = decomposed.choose_qparams_per_token_asymmetric.default
QUANTIZE_TOKENS = decomposed.quantize_per_token.default
DEQUANTIZE_TOKENS = decomposed.dequantize_per_token.default

#: The only width for which there are kernels.
DYNAMIC_BITS = 8
_LIMITS = (torch.iinfo(torch.int8).min, torch.iinfo(torch.int8).max, torch.int8)


def is_dynamic(program: Program) -> bool:
    """Whether any activation of a graph is quantized as it runs."""
    return bool(calls(program.graph, {DEQUANTIZE_TOKENS}))


def quantize_tokens(values: torch.Tensor) -> torch.Tensor:
    """The nearest points of every token's own grid, as reals.

    Args:
        values: (..., channels) float32.
    """
    grid = CHOOSE(values, torch.int8)
    stored = QUANTIZE_TOKENS(values, *grid, *_LIMITS)
    result: torch.Tensor = DEQUANTIZE_TOKENS(stored, *grid, *_LIMITS, torch.float32)
    return result


def insert_dynamic(editor: Editor, source: Node) -> Node:
    """Quantize and dequantize a value's tokens where the editor stands; returns the end."""
    chosen = editor.call(CHOOSE, source, torch.int8)
    grid = [editor.call(operator.getitem, chosen, index) for index in range(2)]
    stored = editor.call(QUANTIZE_TOKENS, source, *grid, *_LIMITS)
    return editor.call(DEQUANTIZE_TOKENS, stored, *grid, *_LIMITS, torch.float32)


def without_dynamic(editor: Editor) -> int:
    """Let every reader of quantized tokens read the tokens themselves; returns how many pairs there were."""
    found = calls(editor.graph, {DEQUANTIZE_TOKENS})
    for node in found:
        editor.replace(node, token_source(node))
    return len(found)


def token_source(node: Node) -> Node:
    """The value whose tokens a dequantizer gives back."""
    return node.all_input_nodes[0].all_input_nodes[0]
