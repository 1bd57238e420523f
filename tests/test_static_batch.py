"""A batch made static without tracing: the same values to the bit, no symbol left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.program import Program, export_module
from tests.conformance import program_of
from tests.zoo import MODELS, example

FAST = ["mobilevit_xxs", "hf_swin", "edgenext_xxs", "timesformer"]


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in FAST)]
)
def test_it_equals_the_graph_traced_for_that_batch(name):
    program = program_of(name)
    shape = program.card.preprocessing.input_shape
    static = program.with_batch(2)
    traced = Program(export_module(program.module, torch.zeros(2, *shape), dynamic_batch=False), program.card)
    assert (static.batch, static.output_shapes) == (2, traced.output_shapes)
    inputs = example(shape, 2, seed=5).numpy()
    np.testing.assert_array_equal(static.run(inputs)[0], traced.run(inputs)[0])
    symbols = [node for node in static.graph.nodes if "Sym" in type(node.meta.get("val")).__name__]
    assert symbols == []


@given(batch=st.integers(1, 9))
@settings(max_examples=5, deadline=None)
def test_any_batch_can_be_fixed(tiny_program, batch):
    images = example((3, 16, 16), 4).numpy()
    static = tiny_program.with_batch(batch)
    np.testing.assert_allclose(static.run(images)[0], tiny_program.run(images)[0], rtol=1e-5, atol=1e-6)
    assert tiny_program.batch is None


def test_a_loaded_program_can_be_fixed_exported_and_saved_again(tiny_pt2, tmp_path):
    static = Program.load(tiny_pt2).with_batch(3)
    static.exported.run_decompositions({})
    assert Program.load(static.save(tmp_path / "static.pt2")).batch == 3
