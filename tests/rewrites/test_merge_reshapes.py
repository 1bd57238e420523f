import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.rewrites import merge_reshapes
from tests.rewrites.helpers import check_refusal, check_rewrite, operators, program_of


def test_consecutive_reshapes_become_one():
    rewritten = check_rewrite(
        merge_reshapes,
        lambda x: x.view(-1, 2, 12).flatten(1).unflatten(1, (3, 8)).relu(),
        (4, 6),
        tolerance=0,
    )
    assert operators(rewritten) == {"reshape": 1, "relu": 1}


def test_a_merged_reshape_needs_no_arithmetic_on_the_batch():
    rewritten = check_rewrite(
        merge_reshapes, lambda x: x.view(x.shape[0] * 4, 6).view(x.shape[0], 2, 12).relu(), (4, 6)
    )
    assert "sym_size" not in operators(rewritten)


@settings(max_examples=20, deadline=None)
@given(first=st.permutations([1, 2, 3]), second=st.permutations([1, 2, 3]))
def test_permutes_are_composed_or_cancel(first, second):
    def permuted(x: torch.Tensor) -> torch.Tensor:
        return x.relu().permute(0, *first).permute(0, *second).neg()

    composed = [first[axis - 1] for axis in second]
    rewritten = check_rewrite(merge_reshapes, permuted, (2, 3, 4), tolerance=0)
    assert operators(rewritten)["permute"] == (0 if composed == [1, 2, 3] else 1)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_chain_of_reshapes_and_transposes_keeps_its_meaning(data):
    shapes = [(2, 3, 4), (6, 4), (24,), (4, 3, 2), (2, 12)]
    steps = data.draw(st.lists(st.sampled_from([*shapes, None]), min_size=2, max_size=6))

    def chain(x: torch.Tensor) -> torch.Tensor:
        for step in steps:
            x = x.transpose(1, -1) if step is None else x.reshape(-1, *step)
        return x.reshape(-1, math.prod(x.shape[1:])).relu()

    once = merge_reshapes(original := program_of(chain, (2, 3, 4)))
    assert merge_reshapes(once) is once
    with torch.no_grad():
        example = torch.randn(5, 2, 3, 4)
        assert torch.equal(once.module(example), original.module(example))


def test_permutes_that_cancel_bring_reshapes_together():
    def chain(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 6, 4).transpose(1, 2).transpose(2, 1).reshape(-1, 24).relu()

    assert operators(check_rewrite(merge_reshapes, chain, (2, 3, 4), tolerance=0)) == {
        "reshape": 1,
        "relu": 1,
    }


def test_reshape_as_does_not_hold_on_to_a_tensor():
    def like(x: torch.Tensor) -> torch.Tensor:
        image = x.relu()
        return image.flatten(1).neg().reshape_as(image)

    rewritten = check_rewrite(merge_reshapes, like, (4, 6), tolerance=0)
    assert operators(rewritten) == {"relu": 1, "flatten": 1, "neg": 1, "reshape": 1}


def test_a_link_that_something_else_reads_is_left_alone():
    def forked(x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, 6, 4)
        return tokens.reshape(-1, 24) + tokens.mean(dim=1).repeat(1, 6)

    check_refusal(merge_reshapes, forked, (2, 3, 4))


def test_reshapes_of_what_is_written_in_place_are_left_alone():
    def written(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        total.view(-1, 4).view(-1, 2, 2)[:, 0] = 1.0
        return total

    check_refusal(merge_reshapes, written, (4,))
