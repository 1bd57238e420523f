"""What verification allows for a quantized Program: as much as rounding at random does to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.export.rounding import rounded_at_random
from edgevit.export.verify import compare
from edgevit.graph.program import Program
from edgevit.quant.levels import Level
from tests.quantized_programs import Convs, Mlp, quantized
from tests.zoo import example


@pytest.fixture(scope="module")
def program() -> Program:
    return quantized(Convs(), (3, 8, 8), everything=True)


IMAGES = example((3, 8, 8), 8, seed=2).numpy()


def verdict(artefact: Program, program: Program):
    (output,) = compare(
        artefact, program, IMAGES, described="noise", tolerance=1e-5, name="model", rounding=True
    ).outputs
    return output


def moved(program: Program, change) -> Program:
    """The program with other arguments of its quantizers, written into a copy of its graph."""
    from edgevit.export.quantized import DEQUANTIZE
    from edgevit.graph.rewriting import Editor, calls

    editor = Editor(program)
    for node in calls(editor.graph, [DEQUANTIZE]):
        node.args = change(node.args)
    return editor.finish("moved")


def test_rounding_at_random_is_the_same_every_time_and_changes_the_outputs(program):
    first, again = (rounded_at_random(program, IMAGES)[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, program.run(IMAGES)[0])
    assert not np.array_equal(first, rounded_at_random(program, IMAGES, seed=1)[0])


def test_what_is_on_the_grid_already_is_not_moved():
    program = quantized(torch.nn.ReLU6(), (3, 8, 8), everything=True)
    on_grid = program.run(IMAGES)[0]
    moves = quantized(torch.nn.Flatten(1), (3, 8, 8))
    assert np.array_equal(rounded_at_random(moves, on_grid)[0], on_grid.reshape(8, -1))


def test_the_program_itself_passes_and_the_line_says_what_the_tolerance_is(program):
    output = verdict(program, program)
    assert output.passed
    assert output.tolerance == pytest.approx(1e-5 + output.rounding)
    assert "as far as rounding at random moves it" in output.explain()


def test_one_step_off_here_and_there_passes(program):
    class Runtime:
        card, runtime, num_classes = program.card, "runtime", 5

        def run(self, images):
            return program.run(images + np.float32(1e-3))

    output = verdict(Runtime(), program)
    assert output.rel > 1e-5
    assert output.passed


def test_a_wrong_zero_point_fails(program):
    wrong = moved(program, lambda args: (*args[:2], args[2] + 8, *args[3:]))
    assert not verdict(wrong, program).passed


def test_a_wrong_scale_fails(program):
    wrong = moved(program, lambda args: (args[0], args[1] * 1.1, *args[2:]))
    assert not verdict(wrong, program).passed


def test_weights_alone_leave_nothing_to_round():
    program = quantized(Mlp(), (5, 3, 4), level=Level.WEIGHTS)
    images = example((5, 3, 4), 2, seed=2).numpy()
    (output,) = compare(
        program, program, images, described="noise", tolerance=1e-5, name="model", rounding=True
    ).outputs
    assert output.rounding == pytest.approx(0, abs=1e-5)
