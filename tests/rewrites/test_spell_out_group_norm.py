import numpy as np
import pytest
import torch

from edgevit.graph.capture import capture
from edgevit.graph.program import Program
from edgevit.graph.rewrites.spell_out_group_norm import spell_out_group_norm


class Normalised(torch.nn.Module):
    def __init__(self, *, groups: int = 1, affine: bool = True) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(groups, 6, affine=affine, eps=1e-3)
        if affine:
            torch.nn.init.normal_(self.norm.weight)
            torch.nn.init.normal_(self.norm.bias)
        self.conv = torch.nn.Conv2d(3, 6, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images)).amax((2, 3))


def program_of(**options) -> Program:
    return capture(Normalised(**options), input_size=(4, 5), mean=(0, 0, 0), std=(1, 1, 1), name="normalised")


def group_norms(program: Program) -> int:
    return sum(node.target is torch.ops.aten.group_norm.default for node in program.graph.nodes)


@pytest.mark.parametrize("affine", [True, False])
def test_one_group_is_written_out(affine):
    program = program_of(affine=affine)
    rewritten = spell_out_group_norm(program)
    assert (group_norms(program), group_norms(rewritten)) == (1, 0)
    images = np.random.default_rng(0).standard_normal((3, 3, 4, 5), dtype=np.float32)
    np.testing.assert_allclose(rewritten.run(images)[0], program.run(images)[0], rtol=1e-5, atol=1e-6)
    assert rewritten.batch is None


def test_several_groups_are_left_alone():
    program = program_of(groups=2)
    assert spell_out_group_norm(program) is program


def test_the_rewritten_program_can_be_saved_and_loaded(tmp_path):
    program = spell_out_group_norm(program_of())
    loaded = Program.load(program.save(tmp_path / "normalised.pt2"))
    images = np.ones((1, 3, 4, 5), dtype=np.float32)
    np.testing.assert_array_equal(loaded.run(images)[0], program.run(images)[0])
