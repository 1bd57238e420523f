"""A dynamic batch made a number without tracing the graph again."""

import pytest
import torch

from edgevit.graph.fixed_batch import with_fixed_batch
from edgevit.graph.program import Program, export_module
from tests.conformance import program_of as zoo_program
from tests.rewrites.helpers import operators, program_of
from tests.zoo import MODELS, example

FAST = ["hf_levit", "hf_pvtv2", "vivit"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in FAST]


def traced(program: Program, batch: int) -> Program:
    """What torch.export makes of the graph as a module."""
    shape = (batch, *(int(size) for size in program.input_shape[1:]))
    return Program(export_module(program.module, torch.zeros(shape), dynamic_batch=False), program.card)


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_it_is_the_graph_that_tracing_gives(name):
    program = zoo_program(name)
    shape = tuple(int(size) for size in program.input_shape[1:])
    text = str(program.graph)
    fixed, expected = program.with_batch(2), traced(program, 2)
    assert operators(fixed) == operators(expected)
    assert fixed.input_shape == (2, *shape)
    assert fixed.output_shapes == expected.output_shapes
    with torch.no_grad():
        assert torch.equal(fixed.module(example(shape, 2)), expected.module(example(shape, 2)))
    assert str(program.graph) == text, "the program's own graph was changed"


def arranged(image: torch.Tensor) -> torch.Tensor:
    batch = image.shape[0]
    places = torch.arange(batch * 4, dtype=torch.float32).view(batch, 4)
    return (image.view(batch * 2, 2) * 2).view(batch, -1) + places


def test_sizes_become_numbers():
    fixed = program_of(arranged, (4,)).with_batch(3)
    assert not [node for node in fixed.graph.nodes if "sym_size" in str(node.target)]
    image = example((4,), 3)
    assert torch.equal(fixed.module(image), arranged(image))


def test_the_shapes_are_those_of_the_batch():
    program = program_of(arranged, (4,))
    shapes = [tuple(node.meta["val"].shape) for node in program.with_batch(5).graph.nodes if node.meta]
    assert all(isinstance(size, int) for shape in shapes for size in shape)


def test_the_result_can_be_saved_and_loaded(tmp_path):
    fixed = program_of(arranged, (4,)).with_batch(3)
    loaded = Program.load(fixed.save(tmp_path / "a.pt2"))
    assert loaded.batch == 3
    assert torch.equal(loaded.module(example((4,), 3)), fixed.module(example((4,), 3)))


def test_control_flow_has_to_be_traced():
    def choose(image: torch.Tensor) -> torch.Tensor:
        return torch.cond(image.sum() > 0, lambda x: x + 1, lambda x: x - 1, (image,))

    program = program_of(choose, (4,))
    assert with_fixed_batch(program.exported, 2) is None
    assert program.with_batch(2).batch == 2


def test_a_program_that_was_loaded_can_be_fixed_and_decomposed(tiny_pt2):
    fixed = Program.load(tiny_pt2).with_batch(3)
    fixed.exported.run_decompositions({})
    assert fixed.batch == 3
