"""What a Program costs to run: multiply-accumulates."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgevit.graph.program import Program


def macs_by_node(program: Program) -> dict[str, int]:
    """Multiply-accumulates of each call for one image, by torch's own counter."""
    counts: dict[str, int] = {}
    batch = program.batch or 1

    class _Counting(Interpreter):
        def run_node(self, n: Node) -> Any:
            before = counter.get_total_flops()
            value = super().run_node(n)
            counts[n.name] = int(counter.get_total_flops() - before) // 2 // batch
            return value

    image = torch.zeros(batch, *program.card.preprocessing.input_shape)
    # torch counts the attention kernels of GPUs, and not the one of a CPU: as matrix products it counts it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _Counting(program.module).run(image)
    return counts


def macs(program: Program) -> int:
    """Multiply-accumulates for one image."""
    return sum(macs_by_node(program).values())
