"""Dimensions that operators make the same come to be made of the same parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.dimensions import Dim, divided, product, reshaped, same, total

SIZES = st.lists(st.integers(2, 5), min_size=1, max_size=4)


def test_a_merged_dimension_falls_into_what_it_was_merged_from():
    heads, width = Dim(3), Dim(64)
    merged = product([heads, width])
    assert reshaped([merged], [3, 64]) == [heads, width]


def test_a_dimension_split_by_one_reader_is_split_for_all():
    hidden = Dim(192)
    heads, width = reshaped([hidden], [3, 64])
    assert reshaped([hidden], [3, 64]) == [heads, width]
    assert hidden.parts == (heads, width)


def test_two_ways_to_split_have_the_finest_in_common():
    dim = Dim(12)
    (a, b), (c, d) = reshaped([dim], [2, 6]), reshaped([dim], [4, 3])
    assert [leaf.size for leaf in dim.leaves()] == [2, 2, 3]
    assert c.parts[0] is a.root
    assert b.parts[1] is d.root


def test_splits_without_a_common_one_keep_their_sizes():
    dim = Dim(12)
    parts = [*reshaped([dim], [4, 3]), *reshaped([dim], [3, 4])]
    assert all(leaf.fixed for part in parts for leaf in part.leaves())


def test_what_follows_parts_that_are_laid_out_in_two_ways_is_the_same():
    width = Dim(7)
    *unlike, last = reshaped([Dim(4), Dim(3), width], [3, 4, 7])
    assert last is width.root
    assert not last.fixed
    assert all(dim.fixed for dim in unlike)


def test_the_end_of_a_sum_of_unlike_parts_is_the_same():
    first = total([product([Dim(3), Dim(2)]), Dim(2), Dim(5)])
    second = total([product([Dim(2), Dim(2)]), Dim(4), Dim(5)])
    same(first, second)
    assert [leaf.size for leaf in first.leaves() if not leaf.fixed] == [5]


def test_pieces_of_a_concatenation_are_what_was_concatenated():
    left, right = Dim(3), Dim(5)
    assert divided(total([left, right]), [3, 5]) == [left, right]


def test_a_concatenation_cut_elsewhere_is_divided_there():
    left, right = Dim(3), Dim(5)
    joined = total([left, right])
    first, second = divided(joined, [4, 4])
    assert [leaf.size for leaf in joined.leaves()] == [3, 1, 4]
    assert first.parts[0] is left
    assert second is right.parts[1]


def test_equal_pieces_that_are_stacked_are_one():
    dim = Dim(12)
    query, key, value = divided(dim, [4, 4, 4])
    three, width = reshaped([dim], [3, 4])
    assert query.root is key.root is value.root is width
    assert three.fixed


def test_what_is_fixed_fixes_what_it_turns_out_to_be_made_of():
    dim = Dim(6)
    dim.fix("the grid")
    assert [part.fixed for part in reshaped([dim], [2, 3])] == ["the grid", "the grid"]


def test_dimensions_of_different_sizes_are_never_the_same():
    with pytest.raises(ValueError, match="2 and 3"):
        same(Dim(2), Dim(3))


def test_indices_of_a_product_and_of_a_sum():
    heads, width, other = Dim(2), Dim(3), Dim(2)
    dim = total([product([heads, width]), other])
    keep = {heads: torch.tensor([1]), other: torch.tensor([0])}
    assert dim.kept(keep).tolist() == [3, 4, 5, 6]


@settings(deadline=None)
@given(SIZES, st.permutations(range(4)), st.integers(0, 3), st.randoms(use_true_random=False))
def test_slicing_what_a_reshape_gives_is_reshaping_what_is_sliced(before, order, merged, random):
    """The law of the algebra, on real tensors: parts are kept of both sides at once, or of neither."""
    after = [before[place] for place in order if place < len(before)]
    after = [math.prod(after[: merged + 1]), *after[merged + 1 :]]
    dims = [Dim(size) for size in before]
    found = reshaped(dims, after)
    choices = chosen(dims, random)
    values = torch.arange(math.prod(before)).reshape(before)
    small, expected = sliced(values, dims, choices), sliced(values.reshape(after), found, choices)
    assert torch.equal(small.flatten(), expected.flatten())


@settings(deadline=None)
@given(SIZES, st.randoms(use_true_random=False))
def test_slicing_a_concatenation_is_concatenating_what_is_sliced(sizes, random):
    dims = [Dim(size) for size in sizes]
    joined = total(dims)
    shuffled = sorted(sizes)
    pieces = divided(joined, shuffled)
    choices = chosen([joined], random)
    values = torch.arange(sum(sizes))
    expected = values[joined.kept(choices)]
    parts = [part[piece.kept(choices)] for part, piece in zip(values.split(shuffled), pieces, strict=True)]
    assert torch.equal(torch.cat(parts), expected)


def chosen(dims, random):
    leaves = dict.fromkeys(leaf for dim in dims for leaf in dim.leaves() if not leaf.fixed)
    return {
        leaf: torch.tensor(sorted(random.sample(range(leaf.size), random.randint(1, leaf.size))))
        for leaf in leaves
    }


def sliced(values, dims, choices):
    for place, dim in enumerate(dims):
        values = values.index_select(place, dim.kept(choices))
    return values


def trees() -> st.SearchStrategy[Dim]:
    """Dimensions made of others, each leaf once; their sizes stay small."""
    parts = st.integers(1, 4).map(Dim)
    return st.recursive(
        parts,
        lambda inner: st.builds(
            lambda made, dims: made(dims),
            st.sampled_from([product, total]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=5,
    )


@settings(deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_an_index_is_kept_where_the_indices_of_all_leaves_in_it_are(dim, random):
    """The law of `index_of`: it says of every index what `kept` asks of every leaf."""
    choices = chosen([dim], random)
    stays = torch.ones(dim.size, dtype=torch.bool)
    for leaf in dim.leaves():
        units = dim.index_of(leaf)
        stays &= (units < 0) | torch.isin(units, choices[leaf])
    assert stays.nonzero().flatten().tolist() == dim.kept(choices).tolist()


@settings(deadline=None)
@given(trees())
def test_every_index_of_a_leaf_is_as_often_in_the_whole(dim):
    for leaf in dim.leaves():
        counts = torch.bincount(dim.index_of(leaf) + 1, minlength=leaf.size + 1)
        assert len(set(counts[1:].tolist())) == 1
        assert counts[1] > 0


@settings(deadline=None)
@given(trees())
def test_the_indices_of_all_leaves_tell_every_index_apart(dim):
    found = torch.stack([dim.index_of(leaf) for leaf in dim.leaves()], dim=1)
    assert len(found.unique(dim=0)) == dim.size


def test_an_index_of_what_is_no_part_is_none():
    assert product([Dim(2), Dim(3)]).index_of(Dim(2)).tolist() == [-1] * 6


def test_of_a_leaf_that_occurs_twice_the_inner_one_counts():
    leaf = Dim(2)
    assert product([leaf, leaf]).index_of(leaf).tolist() == [0, 1, 0, 1]
    assert total([leaf, Dim(1), leaf]).index_of(leaf).tolist() == [0, 1, -1, 0, 1]


def test_a_leaf_is_found_under_any_name_that_it_has():
    merged = product([Dim(3), Dim(4)])
    _, width = reshaped([merged], [3, 4])
    other = Dim(4)
    same(other, width)
    assert merged.index_of(other).tolist() == [0, 1, 2, 3] * 3
