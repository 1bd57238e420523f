import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgevit.export.tflite.views import View, inverse, move_of

SIZES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4).map(tuple)


@st.composite
def chains(draw):
    """A tensor's shape and a chain of reshapes and transposes on it."""
    source = draw(SIZES)
    shape, chain = source, []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            permutation = tuple(draw(st.permutations(range(len(shape)))))
            chain.append(("transpose", permutation))
            shape = tuple(shape[axis] for axis in permutation)
        else:
            shape = draw(reshapes(math.prod(shape)))
            chain.append(("reshape", shape))
    return source, chain


@st.composite
def reshapes(draw, size):
    shape = []
    while size > 1:
        factor = draw(st.sampled_from([divisor for divisor in range(1, size + 1) if size % divisor == 0]))
        shape.append(factor)
        size //= factor
        if factor == 1 and len(shape) > 3:
            shape.append(size)
            break
    return tuple(shape) or (1,)


def views_of(source, chain):
    """The view after the chain, as far as it can be followed, and numpy's result."""
    view, values = View.of(source), np.arange(math.prod(source)).reshape(source)
    for kind, argument in chain:
        after = getattr(view, kind)(argument)
        if after is None:
            break
        view, values = after, getattr(values, kind)(argument)
    return view, values


@given(chains())
def test_a_chain_is_one_reshape_one_transpose_one_reshape(case):
    source, chain = case
    view, expected = views_of(source, chain)
    elements = np.arange(math.prod(source))
    np.testing.assert_array_equal(
        elements.reshape(view.atoms).transpose(view.order).reshape(view.shape), expected
    )


@given(chains())
def test_a_view_moves_exactly_where_the_elements_do(case):
    view, values = views_of(*case)
    assert view.moves == (not np.array_equal(values.ravel(), np.arange(values.size)))


@given(chains(), chains())
def test_canonical_forms_are_equal_exactly_where_the_elements_are(one, other):
    (view, values), (second, others) = views_of(*one), views_of(*other)
    assert (view.canonical() == second.canonical()) == np.array_equal(values.ravel(), others.ravel())


@given(chains())
def test_a_move_carries_a_view_out(case):
    source, chain = case
    view, expected = views_of(source, chain)
    for limit in {view.rank, 6} if view.rank <= 6 else {view.rank}:
        move = move_of(view, source, rank_limit=limit)
        assert len(move.before) <= limit
        moved = np.arange(math.prod(source)).reshape(move.before).transpose(move.permutation)
        assert moved.shape == move.after
        np.testing.assert_array_equal(moved.reshape(view.shape), expected)


@given(chains())
def test_an_exchange_is_a_transpose_that_gives_the_views_shape(case):
    source, chain = case
    view, expected = views_of(source, chain)
    move = view.exchange()
    if move is not None:
        moved = np.arange(math.prod(source)).reshape(move.before).transpose(move.permutation)
        np.testing.assert_array_equal(moved, expected)


def test_tokens_of_a_channels_last_map_need_no_transpose():
    channels_first = View.of((1, 7, 7, 64)).transpose((0, 3, 1, 2))
    tokens = channels_first.reshape((1, 64, 49)).transpose((0, 2, 1))
    assert channels_first.moves
    assert not tokens.moves


def test_the_sources_own_shape_is_transposed_where_that_saves_a_reshape():
    view = View.of((1, 3, 7, 4)).transpose((0, 2, 1, 3))
    assert move_of(view, (1, 3, 7, 4), rank_limit=6).before == (1, 3, 7, 4)
    assert move_of(view, (1, 3, 7, 4), rank_limit=6).after == (1, 7, 3, 4)


def test_inverse_undoes():
    assert inverse((2, 0, 1)) == (1, 2, 0)
