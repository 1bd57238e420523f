"""Programs from tiny modules, and the comparison every rewrite test ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgevit.graph.card import Card, Preprocessing, Provenance
from edgevit.graph.program import Program, export_module
from tests.zoo import example

CARD = Card(
    name="model",
    preprocessing=Preprocessing(input_size=(8, 8), resize_to=None),
    provenance=Provenance(source="test", weights="random", weights_sha256="", tools={}),
)


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def program_of(
    module: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    *,
    dynamic_batch: bool = True,
) -> Program:
    module = module if isinstance(module, nn.Module) else Function(module)
    batch = example(shape, 2 if dynamic_batch else 1)
    return Program(export_module(module.eval(), batch, dynamic_batch=dynamic_batch), CARD)


def operators(program: Program) -> Counter[str]:
    """How often each ATen operator is called, by its short name."""
    return Counter(
        str(node.target).removeprefix("aten.").split(".")[0]
        for node in program.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.")
    )


def largest_rank(program: Program) -> int:
    values = (node.meta.get("val") for node in program.graph.nodes)
    return max(value.ndim for value in values if isinstance(value, torch.Tensor))


def assert_same_function(rewritten: Program, original: Program, *, tolerance: float = 1e-5) -> None:
    """Same outputs, for a batch of another size than the graph was captured with; the original untouched."""
    batch = original.batch or 3
    assert rewritten.batch == original.batch
    inputs = example(tuple(int(size) for size in original.input_shape[1:]), batch, seed=7)
    with torch.no_grad():
        expected, actual = original.module(inputs).numpy(), rewritten.module(inputs).numpy()
    scale = max(np.abs(expected).max(), 1e-6)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * scale


def check_rewrite(
    rewrite: Callable[[Program], Program],
    module: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    *,
    tolerance: float = 1e-5,
    dynamic_batch: bool = True,
) -> Program:
    """The program after a rewrite that must change it, keep what it computes, and be finished in one go."""
    original = program_of(module, shape, dynamic_batch=dynamic_batch)
    graph, weights = str(original.graph), {k: v.clone() for k, v in original.exported.state_dict.items()}
    rewritten = rewrite(original)
    assert rewritten is not original, "nothing was rewritten"
    assert rewrite(rewritten) is rewritten, "a second application found something to do"
    assert str(original.graph) == graph, "the input's graph was changed"
    for name, value in original.exported.state_dict.items():
        assert torch.equal(value, weights[name]), f"the input's {name} was changed"
    assert_same_function(rewritten, original, tolerance=tolerance)
    assert rewritten.exported._guards_code == original.exported._guards_code, "a condition was added"
    assert rewritten.card.steps[:-1] == original.card.steps
    assert rewritten.card.steps[-1].name == rewrite.__name__
    assert int(str(rewritten.card.steps[-1].measured["changed"])) > 0
    return rewritten


def check_refusal(
    rewrite: Callable[[Program], Program],
    module: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
) -> None:
    """The rewrite must leave this alone."""
    original = program_of(module, shape)
    assert rewrite(original) is original
