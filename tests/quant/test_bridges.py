"""Bridge blocks: where they are, where they are not, and that published counts come out."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.graph.rewrites import prepare_for_export
from edgevit.quant.bridges import Bridge, find_bridges
from tests.conformance import program_of as zoo_program
from tests.models import mobile_former
from tests.quant.layers import (
    ATTENTIONS,
    WIDTH,
    Attention,
    Classify,
    Layer,
    Residual,
    SqueezeExcitation,
    ToMap,
    ToTokens,
    attention,
    bottleneck,
    convolution,
    depthwise,
    feed_forward,
    patches,
    stem,
)
from tests.rewrites.helpers import program_of

IMAGE = (3, 8, 8)

# Published (Q-HyViT, arXiv 2303.12557) for the first five; the same rule for the others.
COUNTS = {
    "mobilevit_xxs": 3,
    "mobilevitv2_050": 3,
    "mobile_former": 15,
    "efficientformer_l1": 1,
    "efficientformerv2_s0": 2,
    "hf_mobilevit": 3,
    "hf_mobilevitv2": 3,
    "edgenext_xxs": 3,
    "tiny_vit_5m": 3,
    "levit_128s": 1,
    "hf_levit": 1,
    "hf_cvt": 3,
    "hf_pvtv2": 4,
    "hf_swiftformer": 4,
    "tnt": 1,
    "fastvit_t8": 0,
    "deit_tiny": 0,
    "swin_tiny": 0,
    "crossvit": 0,
    "hf_dinov2": 0,
    "hf_swin": 0,
    "videomae": 0,
    "vivit": 0,
    "timesformer": 0,
}
FAST = ("mobilevit_xxs", "hf_mobilevitv2", "efficientformer_l1", "vivit")


def bridges(*parts: nn.Module, head: bool = True) -> tuple[Bridge, ...]:
    return find_bridges(program_of(nn.Sequential(*parts, *([Classify()] if head else [])), IMAGE))


def on_tokens(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(ToTokens(), *parts, ToMap())


class TestAFeatureMapBecomesTokens:
    def test_from_the_last_convolution_to_the_end_of_the_attention_branch(self):
        (bridge,) = bridges(stem(), convolution(), ToTokens(), Layer())
        assert bridge.direction == "map->tokens"
        assert (bridge.first, bridge.last) == ("conv2d_1", "add")
        assert bridge.leave == ()
        assert "linear_2" not in bridge.nodes  # of the feed-forward

    def test_back_again_is_the_same_block_to_the_next_convolution(self):
        (bridge,) = bridges(stem(), on_tokens(Layer(), Layer()), convolution())
        assert bridge.direction == "both"
        assert bridge.last == "conv2d_1"
        assert not {"linear_4", "linear_5"} & {*bridge.nodes}  # the second layer's attention

    @pytest.mark.parametrize("attend", ATTENTIONS, ids=lambda attend: attend.__name__)
    def test_attention_is_known_by_what_it_multiplies(self, attend):
        assert len(bridges(stem(), ToTokens(), Layer(attend))) == 1

    def test_layers_in_a_row_are_one_stage(self):
        assert len(bridges(stem(), ToTokens(), *(Layer() for _ in range(4)))) == 1

    def test_a_convolution_between_them_makes_two(self):
        found = bridges(stem(), on_tokens(Layer()), convolution(), on_tokens(Layer()), convolution())
        assert [bridge.direction for bridge in found] == ["both", "both"]
        assert not {*found[0].nodes} & {*found[1].nodes}

    def test_an_inverted_bottleneck_between_them_makes_two(self):
        assert len(bridges(stem(), on_tokens(Layer()), bottleneck(), on_tokens(Layer()))) == 2

    def test_the_feed_forward_is_on_the_way_out_even_if_it_convolves(self):
        (bridge,) = bridges(stem(), on_tokens(attention()), Residual(bottleneck()), convolution())
        assert {"conv2d_1", "conv2d_2", "conv2d_3"} < {*bridge.leave}
        assert bridge.last == "conv2d_4"

    def test_leaving_for_the_classifier_alone_is_not_leaving(self):
        (bridge,) = bridges(stem(), on_tokens(Layer()))
        assert bridge.direction == "map->tokens"

    def test_it_is_described_by_the_module_around_it(self):
        (bridge,) = bridges(nn.Sequential(stem(), ToTokens(), Layer()))
        assert bridge.description == f"0: a feature map becomes tokens ({bridge.first} .. {bridge.last})"


class TestNoConvolutionStage:
    def test_a_plain_vit_has_no_bridge(self):
        assert bridges(patches(), ToTokens(), Layer(), Layer()) == ()

    def test_nor_has_a_network_without_attention(self):
        assert bridges(stem(), Residual(bottleneck()), SqueezeExcitation(WIDTH)) == ()

    def test_pointwise_convolutions_are_linear_layers(self):
        assert len(bridges(stem(), on_tokens(Layer()), convolution(kernel=1), on_tokens(Layer()))) == 1

    @pytest.mark.parametrize("code", [depthwise, lambda: Residual(depthwise())])
    def test_a_depthwise_convolution_by_itself_is_a_position_code(self, code):
        assert len(bridges(stem(), on_tokens(Layer()), code(), on_tokens(Layer()))) == 1

    def test_nor_are_several_between_feed_forwards_a_stage(self):
        mixed = (Residual(depthwise()), on_tokens(feed_forward()))
        assert len(bridges(stem(), on_tokens(attention()), *mixed, *mixed, on_tokens(attention()))) == 1

    def test_a_feed_forward_may_convolve(self):
        layers = (on_tokens(attention()), Residual(bottleneck()))
        assert len(bridges(stem(), *layers, *layers)) == 1

    def test_a_second_convolving_branch_is_a_convolution_stage(self):
        between = (Residual(bottleneck()), Residual(bottleneck()))
        assert len(bridges(stem(), on_tokens(attention()), *between, on_tokens(attention()))) == 2

    def test_before_the_first_attention_one_such_branch_is_enough(self):
        assert len(bridges(patches(), Residual(bottleneck()), ToTokens(), Layer())) == 1


class TestTwoStreams:
    """Mobile-Former (arXiv 2108.05895) with n blocks has 2 n + 1 cross-attentions between map and tokens.

    The last two of them, of the last block to the map and of that to the tokens, are for the classifier
    alone. That leaves 2 n - 1: 15 for the eight blocks of Mobile-Former-26M, as published.
    """

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_every_crossing_that_leads_on_to_a_stage_is_a_bridge(self, monkeypatch, count):
        monkeypatch.setattr(mobile_former, "BLOCKS", mobile_former.BLOCKS[:count])
        found = find_bridges(program_of(mobile_former.MobileFormer(), (3, 64, 64)))
        there_and_back = ["map->tokens", "tokens->map"] * count
        assert [bridge.direction for bridge in found] == there_and_back[: 2 * count - 1]

    def test_they_are_the_modules_of_these_names(self, monkeypatch):
        monkeypatch.setattr(mobile_former, "BLOCKS", mobile_former.BLOCKS[:2])
        found = find_bridges(program_of(mobile_former.MobileFormer(), (3, 64, 64)))
        described = [bridge.description.split(":")[0] for bridge in found[1:]]
        assert described == ["blocks.0.to_mobile", "blocks.1.to_former"]


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_the_graph_may_be_as_captured_or_prepared(dynamic_batch):
    module = nn.Sequential(stem(), on_tokens(Layer()), convolution(), on_tokens(Layer()), Classify())
    captured = program_of(module, IMAGE, dynamic_batch=dynamic_batch)
    prepared = prepare_for_export(captured)
    for program in (captured, prepared):
        names = {node.name for node in program.graph.nodes}
        found = find_bridges(program)
        assert [bridge.direction for bridge in found] == ["both", "map->tokens"]
        assert all(names.issuperset(bridge.nodes) for bridge in found)


PIECES = {
    "C": convolution,
    "T": lambda: on_tokens(Layer()),
    "P": lambda: convolution(kernel=1),
    "A": lambda: on_tokens(Residual(Attention())),
}


@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="CTPA", min_size=1, max_size=6))
def test_there_is_a_bridge_for_every_run_of_attention_after_a_convolution(pieces):
    """Pointwise convolutions neither begin nor end a run; what stands before is the stem."""
    found = bridges(stem(), *(PIECES[piece]() for piece in pieces))
    kinds = ["attention" if piece in "TA" else "convolution" for piece in f"C{pieces}" if piece != "P"]
    runs = [kind for kind, _ in groupby(kinds)]
    assert len(found) == runs.count("attention")
    nodes = [name for bridge in found for name in bridge.nodes]
    assert len(nodes) == len(set(nodes))


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in COUNTS]
)
def test_the_zoo_has_the_published_counts(name):
    captured = zoo_program(name)
    for program in (captured, prepare_for_export(captured)):
        found = find_bridges(program)
        assert len(found) == COUNTS[name]
        nodes = [node for bridge in found for node in bridge.nodes]
        assert len(nodes) == len(set(nodes))
