import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.rewrites import fold_batch_norm
from tests.rewrites.helpers import check_refusal, check_rewrite, operators
from tests.zoo import rerandomise


def sequence(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return rerandomise(nn.Sequential(*layers))


@settings(max_examples=15, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_convolution_takes_over_the_batch_norm_behind_it(groups, kernel, bias, affine, seed):
    conv = nn.Conv2d(4, 8, kernel, padding=kernel // 2, groups=groups, bias=bias)
    module = rerandomise(nn.Sequential(conv, nn.BatchNorm2d(8, affine=affine)), seed)
    rewritten = check_rewrite(fold_batch_norm, module, (4, 6, 6))
    assert operators(rewritten) == {"conv2d": 1}


def test_a_padding_given_in_words_is_no_obstacle():
    module = sequence(nn.Conv2d(4, 8, 3, padding="same"), nn.BatchNorm2d(8))
    assert operators(check_rewrite(fold_batch_norm, module, (4, 6, 6))) == {"conv2d": 1}


def test_one_dimensional_convolutions_fold_too():
    module = sequence(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8))
    assert operators(check_rewrite(fold_batch_norm, module, (4, 9))) == {"conv1d": 1}


def test_the_folded_layer_keeps_its_name_and_gains_a_bias():
    rewritten = check_rewrite(
        fold_batch_norm, sequence(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), (3, 6, 6)
    )
    assert set(rewritten.exported.state_dict) == {"0.weight", "0.bias"}
    assert rewritten.parameter_count == 3 * 8 * 9 + 8


class LinearNorm(nn.Module):
    """LeViT's linear layer: the batch norm sees the tokens as one long batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        made = self.linear(tokens)
        return self.norm(made.flatten(0, 1)).reshape(-1, 5, 8)


def test_a_linear_layer_takes_over_the_batch_norm_behind_a_reshape():
    rewritten = check_rewrite(fold_batch_norm, rerandomise(LinearNorm()), (5, 6))
    assert operators(rewritten)["batch_norm"] == 0


def test_a_permute_that_carries_the_channels_along_is_seen_through():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 8), nn.BatchNorm2d(8)

        def forward(self, image):
            return self.norm(self.linear(image).permute(0, 3, 1, 2))

    rewritten = check_rewrite(fold_batch_norm, rerandomise(Permuted()), (4, 4, 6))
    assert operators(rewritten) == {"linear": 1, "permute": 1}


def test_a_reshape_that_mixes_channels_with_pixels_stops_it():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 8, 1), nn.BatchNorm1d(16)

        def forward(self, image):
            return self.norm(self.conv(image).reshape(-1, 16, 8))

    check_refusal(fold_batch_norm, rerandomise(Mixed()), (4, 4, 4))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.conv(image)
        return self.norm(made) + made


def test_a_convolution_that_something_else_reads_as_well_is_left_alone():
    check_refusal(fold_batch_norm, rerandomise(TwoReaders()), (3, 6, 6))


def test_a_batch_norm_in_training_mode_is_left_alone():
    class Training(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)

        def forward(self, image):
            return self.norm(self.conv(image))

    check_refusal(fold_batch_norm, rerandomise(Training()), (3, 6, 6))


def test_an_activation_between_the_two_stops_it():
    module = sequence(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU())
    check_refusal(fold_batch_norm, module, (3, 6, 6))


def test_a_convolution_used_twice_is_folded_without_hurting_its_other_use():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, image):
            return self.conv(self.norm(self.conv(image)).relu())

    rewritten = check_rewrite(fold_batch_norm, rerandomise(Shared()), (4, 6, 6))
    assert set(rewritten.exported.state_dict) == {
        "conv.weight",
        "conv.bias",
        "conv.weight_1",
        "conv.bias_1",
    }


def test_a_linear_head_takes_over_the_batch_norm_before_it():
    module = sequence(nn.ReLU(), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4))
    assert operators(check_rewrite(fold_batch_norm, module, (6,)))["batch_norm"] == 0


@settings(max_examples=10, deadline=None)
@given(groups=st.sampled_from([1, 2, 4]), kernel=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_convolution_that_does_not_pad_takes_over_the_batch_norm_before_it(groups, kernel, seed):
    layers = nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, kernel, groups=groups, bias=False)
    rewritten = check_rewrite(fold_batch_norm, rerandomise(nn.Sequential(*layers), seed), (4, 6, 6))
    assert operators(rewritten) == {"relu": 1, "conv2d": 1}


def test_a_convolution_that_pads_does_not_take_over_the_batch_norm_before_it():
    check_refusal(
        fold_batch_norm, sequence(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=1)), (4, 6, 6)
    )


def test_a_batch_norm_that_two_layers_read_is_left_alone():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.left, self.right = nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

        def forward(self, image):
            normed = self.norm(image.relu())
            return self.left(normed) + self.right(normed)

    check_refusal(fold_batch_norm, rerandomise(Forked()), (4, 6, 6))
