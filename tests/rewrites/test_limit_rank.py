import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.rewrites import limit_rank
from tests.rewrites.helpers import check_refusal, check_rewrite, largest_rank, operators


def partition(image: torch.Tensor) -> torch.Tensor:
    """Swin's windows: (batch, 8, 8, 6) -> (batch x 4, 16, 6)."""
    batch, height, width, channels = image.shape
    windows = image.view(batch, height // 4, 4, width // 4, 4, channels)
    return windows.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, channels)


def merge(windows: torch.Tensor) -> torch.Tensor:
    """The way back."""
    return windows.view(-1, 2, 2, 4, 4, 6).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 8, 8, 6)


def test_a_window_partition_becomes_one_permute_of_four_axes():
    rewritten = check_rewrite(limit_rank, partition, (8, 8, 6), tolerance=0)
    assert largest_rank(rewritten) == 4
    assert operators(rewritten)["permute"] == 1


def test_there_and_back_is_the_identity():
    rewritten = check_rewrite(limit_rank, lambda image: merge(partition(image) * 2), (8, 8, 6), tolerance=0)
    assert largest_rank(rewritten) == 4


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=5, max_size=6),
    data=st.data(),
    batch_first=st.booleans(),
)
def test_any_reordering_of_many_axes_is_exact_with_at_most_five(sizes, data, batch_first):
    rank = len(sizes) + 1
    order = data.draw(st.permutations(range(rank)))
    if batch_first:
        order = [0, *(axis for axis in order if axis != 0)]

    def reorder(flat: torch.Tensor) -> torch.Tensor:
        many = flat.reshape(flat.shape[0], *sizes).permute(order)
        return many.reshape(flat.shape[0], -1)

    # torch.export itself fixes a batch that does not stay in front.
    rewritten = check_rewrite(
        limit_rank, reorder, (math.prod(sizes),), tolerance=0, dynamic_batch=batch_first
    )
    assert largest_rank(rewritten) <= 5


def test_transposes_count_as_permutes():
    def unfold(image: torch.Tensor) -> torch.Tensor:
        return image.reshape(-1, 3, 2, 2, 2, 2).transpose(3, 4).transpose(1, 2).reshape(-1, 12, 4)

    assert largest_rank(check_rewrite(limit_rank, unfold, (3, 4, 4), tolerance=0)) <= 5


def test_five_axes_are_left_alone():
    check_refusal(limit_rank, lambda x: x.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 64), (64,))


def test_arithmetic_on_many_axes_is_left_alone():
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x.view(-1, 2, 2, 2, 2, 4).transpose(2, 3) * 2).reshape(-1, 64)

    check_refusal(limit_rank, scaled, (64,))


def test_a_reordering_with_a_reader_in_its_middle_is_left_alone():
    def twice(x: torch.Tensor) -> torch.Tensor:
        many = x.view(-1, 2, 2, 2, 2, 4).transpose(2, 3)
        return many.reshape(-1, 64) + many.sum(dim=(2, 3)).reshape(-1, 16).repeat(1, 4)

    check_refusal(limit_rank, twice, (64,))
