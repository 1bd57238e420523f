import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.rewrites import conv3d_to_conv2d
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


@settings(max_examples=20, deadline=None)
@given(
    time=st.tuples(st.integers(1, 3), st.integers(3, 7)),
    space=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1)),
    bias=st.booleans(),
)
def test_a_tubelet_embedding_is_a_convolution_over_stacked_frames(time, space, bias):
    (tubelet, frames), (kernel, stride, padding) = time, space
    conv = nn.Conv3d(
        2, 5, (tubelet, kernel, kernel), (tubelet, stride, stride), (0, padding, padding), bias=bias
    )
    rewritten = check_rewrite(conv3d_to_conv2d, conv, (2, frames, 6, 8))
    assert operators(rewritten)["conv3d"] == 0
    assert operators(rewritten)["conv2d"] == 1


def test_dilation_in_space_is_kept():
    conv = nn.Conv3d(2, 5, (2, 3, 3), (2, 1, 1), dilation=(1, 2, 2))
    assert operators(check_rewrite(conv3d_to_conv2d, conv, (2, 4, 8, 8)))["conv2d"] == 1


def test_a_weight_that_is_shared_keeps_its_shape_for_the_other_reader():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(2, 5, (2, 2, 2), (2, 2, 2))

        def forward(self, video):
            return self.conv(video) * self.conv.weight.mean()

    rewritten = check_rewrite(conv3d_to_conv2d, Tied(), (2, 4, 8, 8))
    assert rewritten.exported.state_dict["conv.weight"].ndim == 5


def test_windows_that_overlap_in_time_are_left_alone():
    check_refusal(conv3d_to_conv2d, nn.Conv3d(2, 5, (3, 2, 2), (2, 2, 2)), (2, 7, 8, 8))


def test_padding_in_time_is_left_alone():
    check_refusal(conv3d_to_conv2d, nn.Conv3d(2, 5, 2, 2, padding=(1, 0, 0)), (2, 4, 8, 8))


def test_dilation_in_time_is_left_alone():
    check_refusal(conv3d_to_conv2d, nn.Conv3d(2, 5, 2, 2, dilation=(2, 1, 1)), (2, 6, 8, 8))


def test_groups_are_left_alone():
    check_refusal(conv3d_to_conv2d, nn.Conv3d(2, 4, 2, 2, groups=2), (2, 4, 8, 8))


def test_a_weight_computed_in_the_graph_is_left_alone():
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 2, 2, 2, 2))

        def forward(self, video):
            return nn.functional.conv3d(video, self.weight * 2, stride=2)

    check_refusal(conv3d_to_conv2d, Computed(), (2, 4, 8, 8))
