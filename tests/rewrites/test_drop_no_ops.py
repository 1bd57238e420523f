import pytest
import torch
from torch import nn

from edgevit.graph.rewrites import drop_no_ops
from tests.rewrites.helpers import check_refusal, check_rewrite, operators, program_of

NO_OPS = {
    "dropout": lambda x: nn.functional.dropout(x, 0.5, training=False),
    "view": lambda x: x.view(-1, 4, 6),
    "reshape": lambda x: x.reshape(x.shape[0], 4, -1),
    "expand": lambda x: x.expand(-1, 4, 6),
    "expand_as": lambda x: x.expand_as(x),
    "flatten": lambda x: x.flatten(2),
    "clone": torch.clone,
    "contiguous": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "detach": torch.detach,
    "alias": torch.ops.aten.alias.default,
    "to": lambda x: x.to(torch.float32),
    "type_as": lambda x: x.type_as(x.neg()),
    "slice": lambda x: x[:, 0:4, :],
    "add": lambda x: x + 0,
    "sub": lambda x: x - 0.0,
    "mul": lambda x: 1.0 * x,
    "div": lambda x: x / 1,
    "pad": lambda x: nn.functional.pad(x, (0, 0, 0, 0)),
    "roll": lambda x: x.roll(0, 1),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_what_changes_nothing_is_dropped(name):
    rewritten = check_rewrite(drop_no_ops, lambda x: NO_OPS[name](x.relu()).neg(), (4, 6), tolerance=0)
    assert operators(rewritten)[name] == 0


def test_adding_a_buffer_of_zeros_is_dropped_with_the_buffer():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.zeros(6))

        def forward(self, x):
            return (x.relu() + self.mask).neg()

    rewritten = check_rewrite(drop_no_ops, Masked(), (4, 6), tolerance=0)
    assert operators(rewritten) == {"relu": 1, "neg": 1}
    assert rewritten.exported.state_dict == {}


def test_a_parameter_that_happens_to_be_zero_stays():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            return x.relu() + self.bias

    check_refusal(drop_no_ops, Biased(), (4, 6))


def test_adding_zeros_that_widen_the_result_stays():
    class Widened(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("zeros", torch.zeros(5, 1, 6))

        def forward(self, x):
            return x.relu()[:, None] + self.zeros

    check_refusal(drop_no_ops, Widened(), (1, 6))


def test_adding_zero_to_whole_numbers_that_makes_them_real_stays():
    check_refusal(drop_no_ops, lambda x: x.argmax(dim=1) * 1.0, (4,))


def test_a_view_behind_a_dropped_copy_takes_any_strides():
    rewritten = check_rewrite(
        drop_no_ops, lambda x: x.transpose(1, 2).contiguous().view(-1, 24).relu(), (4, 6), tolerance=0
    )
    assert operators(rewritten) == {"transpose": 1, "reshape": 1, "relu": 1}


def test_a_view_becomes_a_reshape_even_where_nothing_is_dropped():
    rewritten = check_rewrite(drop_no_ops, lambda x: x.view(-1, 24).relu(), (4, 6), tolerance=0)
    assert operators(rewritten) == {"reshape": 1, "relu": 1}


def test_a_view_of_what_is_written_in_place_stays_a_view():
    def written(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total.view(-1, 24)[:, 0] = 1.0
        return total

    check_refusal(drop_no_ops, written, (4, 6))


def test_a_copy_that_shields_from_writing_in_place_stays():
    def shielded(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        kept = total.clone()
        total[:, 0] = 1.0
        return kept + total

    check_refusal(drop_no_ops, shielded, (4,))


def test_a_model_that_is_one_copy_keeps_it():
    check_refusal(drop_no_ops, lambda x: x.clone(), (4,))


def test_every_other_element_is_not_the_whole():
    check_refusal(drop_no_ops, lambda x: x[:, ::2].relu(), (4,))


def test_a_change_of_precision_stays():
    rounded = drop_no_ops(program_of(lambda x: (x * 3).to(torch.float16).to(torch.float32), (4,)))
    assert operators(rounded) == {"mul": 1, "to": 2}


def test_the_tracers_assertions_are_dropped():
    rewritten = check_rewrite(
        drop_no_ops, lambda x: x.relu().to(torch.float64).sum(1).to(torch.float32), (4,), tolerance=0
    )
    assert operators(rewritten)["_assert_tensor_metadata"] == 0
