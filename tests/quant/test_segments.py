"""Segments: where a graph is cut, and what is said of each piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.quant.segments import Segment, segments
from tests.quant.layers import (
    ATTENTIONS,
    WIDTH,
    Attention,
    Residual,
    SqueezeExcitation,
    depthwise,
    feed_forward,
)
from tests.rewrites.helpers import program_of

TOKENS = (16, WIDTH)
MAP = (WIDTH, 4, 4)


def row(module: object, shape: tuple[int, ...] = TOKENS) -> list[tuple[str, ...]]:
    return [tuple(node.name for node in segment.nodes) for segment in pieces(module, shape)]


def pieces(module: object, shape: tuple[int, ...] = TOKENS) -> tuple[Segment, ...]:
    return segments(program_of(module, shape))


def test_a_chain_is_cut_everywhere():
    assert row(lambda x: x.relu().sigmoid().tanh()) == [("relu",), ("sigmoid",), ("tanh",)]


def test_a_residual_branch_is_left_whole():
    (segment,) = pieces(feed_forward())
    assert segment.residual
    assert len(segment.layers) == 2
    assert [node.op for node in segment.inputs] == ["placeholder"]


def test_the_branches_under_a_skip_are_laid_bare():
    class Skipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(feed_forward(), feed_forward())

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.relu(), self.layers(x.tanh())], dim=-1)

    assert [len(segment.layers) for segment in pieces(Skipped()) if segment.residual] == [2, 2]


def test_a_sum_may_be_reached_through_reshapes():
    (segment,) = pieces(lambda x: (x.flatten(1) + x.relu().flatten(1)).unflatten(1, TOKENS)[..., :2].tanh())[
        :1
    ]
    assert segment.residual


def test_a_sum_of_two_values_made_before_is_no_branch():
    def both(x: Tensor) -> Tensor:
        return x.relu() + x.tanh()

    assert not any(segment.residual for segment in pieces(both))


def test_a_split_is_not_cut_from_its_parts():
    def halves(x: Tensor) -> Tensor:
        left, right = x.relu().chunk(2, dim=-1)
        return torch.cat([left.tanh(), right], dim=-1).sigmoid()

    assert row(halves) == [("relu",), ("chunk", "getitem", "getitem_1", "tanh", "cat"), ("sigmoid",)]


@pytest.mark.parametrize("attend", ATTENTIONS, ids=lambda attend: attend.__name__)
def test_attention_in_every_spelling(attend):
    assert any(segment.attends for segment in pieces(Attention(attend)))


def test_learned_queries_attend_as_well():
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.randn(2, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            query = self.query.expand(x.shape[0], -1, -1)
            return nn.functional.scaled_dot_product_attention(query, x, x)

    assert any(segment.attends for segment in pieces(Pooling()))


@pytest.mark.parametrize("part", [feed_forward(), nn.GroupNorm(2, WIDTH), nn.Softmax(dim=-1)])
def test_nothing_else_attends(part):
    assert not any(segment.attends for segment in pieces(part, (WIDTH, WIDTH)))


def test_a_gate_is_told_from_a_layer():
    gate, layer = SqueezeExcitation(WIDTH), nn.Conv2d(WIDTH, WIDTH, 1)
    assert [segment.gates for segment in pieces(nn.Sequential(gate, layer), MAP)] == [True, False]


@pytest.mark.parametrize(
    ("convolution", "neighbours", "channels"),
    [
        (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), True, True),
        (nn.Conv2d(WIDTH, WIDTH, 3, padding="same"), True, True),
        (nn.Conv2d(WIDTH, WIDTH, 2, 2), False, True),
        (nn.Conv2d(WIDTH, WIDTH, 1), False, True),
        (nn.Conv2d(WIDTH, WIDTH, (1, 3)), True, True),
        (nn.Conv2d(WIDTH, WIDTH, 3, groups=2), True, True),
        (depthwise(), True, False),
        (nn.Conv2d(WIDTH, 2 * WIDTH, 3, groups=WIDTH), True, False),
    ],
    ids=str,
)
def test_what_a_convolution_mixes(convolution, neighbours, channels):
    (segment,) = pieces(convolution, MAP)
    assert (segment.mixes_neighbours, segment.mixes_channels) == (neighbours, channels)


def test_each_node_on_the_image_is_in_one_segment():
    found = [name for names in row(nn.Sequential(Residual(Attention()), feed_forward())) for name in names]
    assert len(found) == len(set(found))
