import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import fold, unfold

from edgevit.graph.rewrites.unfold_to_reshape import unfold_to_reshape
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


@given(
    channels=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=8, deadline=None)
def test_patches_are_taken_out_by_moving_axes(channels, kernel, grid):
    shape = (channels, kernel[0] * grid[0], kernel[1] * grid[1])
    rewritten = check_rewrite(unfold_to_reshape, lambda x: unfold(x, kernel, stride=kernel), shape)
    assert set(operators(rewritten)) == {"reshape", "permute"}


@given(
    channels=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=8, deadline=None)
def test_patches_are_put_back_by_moving_axes(channels, kernel, grid):
    size = (kernel[0] * grid[0], kernel[1] * grid[1])
    shape = (channels * kernel[0] * kernel[1], grid[0] * grid[1])
    rewritten = check_rewrite(unfold_to_reshape, lambda x: fold(x, size, kernel, stride=kernel), shape)
    assert set(operators(rewritten)) == {"reshape", "permute"}


@pytest.mark.parametrize(
    "windows",
    [
        pytest.param(lambda x: unfold(x, 2), id="overlapping"),
        pytest.param(lambda x: unfold(x, 2, stride=2, padding=1), id="padded"),
        pytest.param(lambda x: unfold(x, 2, stride=2, dilation=2), id="dilated"),
        pytest.param(lambda x: unfold(x, 3, stride=3), id="cut off"),
    ],
)
def test_other_windows_are_left_alone(windows):
    check_refusal(unfold_to_reshape, windows, (3, 8, 8))
