import torch
from torch import nn

from edgevit.graph.rewrites import make_functional
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


def test_in_place_activations_become_functional():
    module = nn.Sequential(
        nn.Linear(4, 4), nn.SiLU(inplace=True), nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
    )
    rewritten = check_rewrite(make_functional, module, (4,), tolerance=0)
    assert operators(rewritten) == {"linear": 1, "silu": 1, "relu": 1, "hardtanh": 1}


def test_later_readers_of_the_old_name_see_the_new_value():
    def added(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total.add_(1)
        return total * total

    assert operators(check_rewrite(make_functional, added, (4,), tolerance=0))["add"] == 1


def test_a_view_taken_after_the_writing_follows():
    def viewed(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total.relu_()
        return total.view(-1, 2, 2).transpose(1, 2)

    assert operators(check_rewrite(make_functional, viewed, (4,), tolerance=0))["relu"] == 1


def test_in_place_dropout_becomes_functional():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True))
    assert operators(check_rewrite(make_functional, module, (4,), tolerance=0)) == {"linear": 1, "dropout": 1}


def test_a_view_read_after_the_writing_keeps_it_in_place():
    def aliased(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        half = total[:, :2]
        total.relu_()
        return half + total[:, 2:]

    check_refusal(make_functional, aliased, (4,))


def test_writing_through_a_view_stays_in_place():
    def assigned(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total[:, :2].relu_()
        return total

    check_refusal(make_functional, assigned, (4,))


def test_an_alias_that_dropout_makes_in_evaluation_is_noticed():
    def aliased(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        same = nn.functional.dropout(total, 0.5, training=False)
        total.relu_()
        return same

    check_refusal(make_functional, aliased, (4,))


def test_a_slice_assignment_is_left_alone():
    def assigned(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total[:, 0] = 1.0
        return total

    check_refusal(make_functional, assigned, (4,))


def test_a_functional_graph_is_left_alone():
    check_refusal(make_functional, nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (4,))
