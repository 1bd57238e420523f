import pytest
import torch
from torch import nn

from edgevit.graph.program import Program
from edgevit.graph.rewrites.group_norm import group_norm_to_layer_norm, spell_out_group_norm
from tests.rewrites.helpers import check_refusal, check_rewrite, operators

REWRITES = [spell_out_group_norm, group_norm_to_layer_norm]


class Normalised(nn.Module):
    def __init__(self, *, groups: int = 1, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, 6, affine=affine, eps=1e-3)
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images)).amax((2, 3))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_one_group_is_written_in_another_form(rewrite, affine):
    rewritten = check_rewrite(rewrite, Normalised(affine=affine), (3, 4, 5))
    assert operators(rewritten)["group_norm"] == 0


def test_arithmetic_needs_no_reshape_of_the_image():
    rewritten = check_rewrite(spell_out_group_norm, Normalised(affine=False), (3, 4, 5))
    assert set(operators(rewritten)) == {"conv2d", "mean", "sub", "mul", "add", "rsqrt", "amax"}


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 4, 4)], ids=["1-D", "3-D"])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_any_number_of_dimensions_is_normalised(rewrite, shape):
    norm = nn.GroupNorm(1, 3)
    nn.init.normal_(norm.weight)
    check_rewrite(rewrite, norm, shape)


@pytest.mark.parametrize("rewrite", REWRITES)
def test_several_groups_are_left_alone(rewrite):
    check_refusal(rewrite, Normalised(groups=2), (3, 4, 5))


@pytest.mark.parametrize("rewrite", REWRITES)
def test_the_rewritten_program_can_be_saved_and_loaded(rewrite, tmp_path):
    program = check_rewrite(rewrite, Normalised(), (3, 4, 5))
    assert operators(Program.load(program.save(tmp_path / "normalised.pt2"))) == operators(program)
