from torch import nn

from edgevit.graph.rewrites.spell_out_silu import spell_out_silu
from tests.rewrites.helpers import check_rewrite, operators, program_of


def test_a_silu_becomes_a_sigmoid_and_a_product():
    rewritten = check_rewrite(spell_out_silu, nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU()), (3, 4, 5))
    assert operators(rewritten) == {"conv2d": 1, "sigmoid": 1, "mul": 1}


def test_a_graph_without_silu_is_left_alone():
    program = program_of(nn.ReLU(), (3, 4, 5))
    assert spell_out_silu(program) is program
