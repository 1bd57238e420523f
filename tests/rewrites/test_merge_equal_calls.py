import pytest
import torch
from torch import nn

from edgevit.graph.rewrites import merge_equal_calls
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


class Twice(nn.Module):
    """One token, taken twice for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x[:, 0].relu()) + self.second(x[:, 0].relu())


def test_what_is_taken_twice_is_taken_once():
    rewritten = check_rewrite(merge_equal_calls, Twice(), (3, 4), tolerance=0)
    assert operators(rewritten) == {"select": 1, "relu": 1, "linear": 2, "add": 1}
    assert merge_equal_calls(rewritten) is rewritten


def written_between(x: torch.Tensor) -> torch.Tensor:
    board = x.clone()
    before = board.relu()
    board.add_(1)
    return before + board.relu()


@pytest.mark.parametrize(
    "unlike",
    [
        lambda x: x.select(1, 0) + x.select(1, 1),
        lambda x: torch.stack([x.sum(1), x.sum(1, keepdim=True).squeeze(1)]),
        lambda x: x.add(1) + x.add(1.0),
        lambda x: torch.rand_like(x) + torch.rand_like(x) + x,
        written_between,
    ],
    ids=["places", "options", "types", "chance", "memory"],
)
def test_calls_that_are_not_equal_stay(unlike):
    check_refusal(merge_equal_calls, unlike, (3, 4))
