"""What every rewrite stands on."""

from __future__ import annotations

import torch

from edgevit.graph.rewriting import Editor
from tests.rewrites.helpers import program_of

aten = torch.ops.aten


def test_inputs_whose_names_are_taken_are_not_mixed_up():
    program = program_of(lambda x: x.relu(), (4,))
    editor = Editor(program)
    (result,) = editor.results
    # The second asks for the name that the first is given in place of its own.
    first = editor.add_input("relu", (editor.batch, 4), torch.float32)
    second = editor.add_input(first.name, (editor.batch, 4), torch.float32)
    with editor.before(editor.graph.output_node()):
        sums = editor.call(aten.add.Tensor, editor.call(aten.mul.Tensor, second, 100.0), first)
        editor.set_outputs({"sums": editor.call(aten.add.Tensor, sums, result)})
    found = editor.finish("takes_others")
    x, one, other = (torch.full((2, 4), value) for value in (1.0, 20.0, 3.0))
    assert torch.equal(*found.module(x, one, other), torch.full((2, 4), 321.0))
