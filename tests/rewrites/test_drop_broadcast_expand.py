import numpy as np
import pytest
import torch

from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.graph.rewrites.drop_broadcast_expand import drop_broadcast_expand

aten = torch.ops.aten


class Graph(torch.nn.Module):
    """A function of one image, as a module that ends in (batch, classes) logits."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def program_of(function) -> Program:
    return capture(Graph(function), input_size=(4, 6), mean=(0, 0, 0), std=(1, 1, 1), name="graph")


def expansions(program: Program) -> int:
    return sum(node.target in {aten.expand.default, aten.expand_as.default} for node in program.graph.nodes)


def assert_equal(program: Program, other: Program) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 4, 6), dtype=np.float32)
    for ours, theirs in zip(program.run(images), other.run(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def gate(images: torch.Tensor) -> torch.Tensor:
    rows = images.mean(2)
    return (rows.relu() * rows.sum(-1, keepdim=True).expand_as(rows)).mean(-1)


def test_an_expansion_that_is_multiplied_is_dropped():
    program = program_of(gate)
    rewritten = drop_broadcast_expand(program)
    assert (expansions(program), expansions(rewritten)) == (1, 0)
    assert_equal(rewritten, program)


def test_an_expansion_that_adds_leading_dimensions_is_dropped():
    program = program_of(lambda x: (x + x.mean((0, 2, 3)).view(3, 1, 1).expand(x.shape)).mean((2, 3)))
    rewritten = drop_broadcast_expand(program)
    assert expansions(rewritten) == 0
    assert_equal(rewritten, program)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: x.mean(2, keepdim=True).expand(-1, -1, 4, -1).sum((2, 3)), id="sum"),
        pytest.param(lambda x: x.mean(2, keepdim=True).expand(-1, -1, 4, -1).reshape(-1, 72), id="reshape"),
        pytest.param(
            lambda x: x.mean((2, 3), keepdim=True).expand_as(x).exp().mean((2, 3)), id="only operand"
        ),
    ],
)
def test_an_expansion_that_gives_the_shape_stays(function):
    program = program_of(function)
    assert expansions(program) == 1
    assert drop_broadcast_expand(program) is program


def test_an_expansion_with_one_user_that_needs_it_stays():
    def function(x):
        wide = x.mean(2, keepdim=True).expand_as(x)
        return (x * wide).sum((2, 3)) + wide.sum((2, 3))

    program = program_of(function)
    assert drop_broadcast_expand(program) is program


def test_of_two_expanded_operands_one_stays_where_both_give_the_shape():
    def function(x):
        across, down = x.mean(2, keepdim=True), x.mean(3, keepdim=True)
        product = across.expand_as(x) * across.exp().expand_as(x)
        return (product + down.expand_as(x)).sum((2, 3))

    program = program_of(function)
    rewritten = drop_broadcast_expand(program)
    assert 0 < expansions(rewritten) < expansions(program)
    assert_equal(rewritten, program)


def test_a_program_without_expansions_is_returned_as_it_is():
    program = program_of(lambda x: x.mean((2, 3)))
    assert drop_broadcast_expand(program) is program


def test_the_given_program_is_left_alone_and_its_weights_are_shared():
    linear = torch.nn.Linear(3, 3)
    program = program_of(lambda x: linear(gate(x)))
    nodes = [node.format_node() for node in program.graph.nodes]
    rewritten = drop_broadcast_expand(program)
    assert [node.format_node() for node in program.graph.nodes] == nodes
    ours, theirs = rewritten.exported, program.exported
    tensors = {**theirs.state_dict, **theirs.constants}
    for name, tensor in {**ours.state_dict, **ours.constants}.items():
        assert tensor.data_ptr() == tensors[name].data_ptr()


def test_the_rewritten_program_can_be_saved_and_loaded(tmp_path):
    program = drop_broadcast_expand(program_of(gate))
    assert_equal(Program.load(program.save(tmp_path / "graph.pt2")), program)


def test_the_batch_stays_dynamic():
    assert drop_broadcast_expand(program_of(gate)).batch is None
