"""Copies of exported graphs."""

from __future__ import annotations

import copy

from torch.fx import Graph


def copied(graph: Graph) -> Graph:
    """A copy whose nodes keep their names and their values' fake tensors."""
    duplicate: Graph = copy.deepcopy(graph)
    for original, node in zip(graph.nodes, duplicate.nodes, strict=True):
        # Copying renames what is called like a Python builtin ("input"); the signature goes by names.
        node.name = original.name
    return duplicate
