"""What verification allows for a quantized Program: as much as rounding otherwise does to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.export.rounding import rounded_otherwise
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


def test_rounding_otherwise_is_the_same_every_time_and_changes_the_outputs(program):
    (first,), (again,) = (rounded_otherwise(program, IMAGES) for _ in range(2))
    assert len(first) == 3
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)
        assert not np.array_equal(one, program.run(IMAGES)[0])


def test_what_is_on_the_grid_already_is_not_moved():
    cut = quantized(torch.nn.Hardtanh(-1, 1), (3, 8, 8), everything=True)
    moved_on = quantized(
        torch.nn.Sequential(torch.nn.Hardtanh(-1, 1), torch.nn.Flatten(1)), (3, 8, 8), everything=True
    )
    for output, flat in zip(
        rounded_otherwise(cut, IMAGES)[0], rounded_otherwise(moved_on, IMAGES)[0], strict=True
    ):
        assert np.array_equal(output.reshape(8, -1), flat)


def test_what_lies_halfway_goes_up_and_down():
    program = quantized(torch.nn.Hardtanh(-1, 1), (3, 8, 8), everything=True)
    target = torch.ops.quantized_decomposed.quantize_per_tensor.default
    scale = next(node.args[1] for node in program.graph.nodes if node.target is target)
    halfway = np.full((1, 3, 8, 8), 10.5 * scale, np.float32)
    _, up, down = rounded_otherwise(program, halfway)[0]
    assert np.allclose(up - down, scale, atol=scale / 10)


def test_the_program_itself_passes_and_the_line_says_what_the_tolerance_is(program):
    output = verdict(program, program)
    assert output.passed
    assert output.tolerance == pytest.approx(1e-5 + output.rounding)
    assert "as far as rounding otherwise moves it" in output.explain()


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
    program = quantized(Mlp(), (3, 8, 8), level=Level.WEIGHTS)
    images = example((3, 8, 8), 2, seed=2).numpy()
    (output,) = compare(
        program, program, images, described="noise", tolerance=1e-5, name="model", rounding=True
    ).outputs
    assert output.rounding == pytest.approx(0, abs=1e-5)
