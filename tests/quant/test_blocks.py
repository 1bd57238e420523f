"""Reconstruction blocks: what belongs together, and that they are a partition of every graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.quant.blocks import Block, block_costs, find_blocks
from edgevit.quant.bridges import find_bridges
from edgevit.quant.segments import activations
from tests.conformance import program_of as zoo_program
from tests.quant.layers import (
    GRID,
    WIDTH,
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
from tests.zoo import MODELS

IMAGE = (3, 8, 8)
FAST = ("mobilevit_xxs", "hf_mobilevitv2", "efficientformer_l1", "hf_levit", "hf_pvtv2", "vivit")
# A block for each layer, bottleneck or side of a bridge, besides stem and head.
COUNTS = {
    "deit_tiny": 14,
    "mobilevit_xxs": 18,
    "mobilevitv2_050": 17,
    "efficientformer_l1": 19,
    "efficientformerv2_s0": 16,
    "levit_128s": 13,
    "edgenext_xxs": 15,
    "fastvit_t8": 20,
    "tiny_vit_5m": 14,
    "swin_tiny": 14,
    "tnt": 25,
    "crossvit": 21,
    "mobile_former": 38,
    "hf_mobilevit": 18,
    "hf_mobilevitv2": 11,
    "hf_levit": 7,
    "hf_cvt": 7,
    "hf_dinov2": 4,
    "hf_swin": 6,
    "hf_pvtv2": 5,
    "hf_swiftformer": 6,
    "videomae": 4,
    "vivit": 4,
    "timesformer": 4,
}
LAYERS = ("conv1d", "conv2d", "conv3d", "linear")
CONTRACTIONS = (*LAYERS, "matmul", "bmm", "einsum", "scaled_dot_product_attention")


def blocks_of(*parts: nn.Module) -> tuple[Block, ...]:
    return find_blocks(program_of(nn.Sequential(*parts, Classify()), IMAGE))


def shape(*parts: nn.Module) -> str:
    """The blocks as kind and module, ``stem:0 transformer:1.0 head:2``."""
    return " ".join(f"{block.kind}:{block.name}" for block in blocks_of(*parts))


def operator(node: torch.fx.Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0]


def check_partition(program: Program) -> None:
    """What holds for the blocks of any program."""
    blocks = find_blocks(program)
    nodes = {node.name: node for node in program.graph.nodes}
    order = {name: index for index, name in enumerate(nodes)}
    of_image = {node.name for node in activations(program)}
    block_of = {name: block for block in blocks for name in block.nodes}
    assert len(block_of) == sum(len(block.nodes) for block in blocks)
    # Every multiplication is in one, and every block multiplies with weights.
    assert {name for name, node in nodes.items() if operator(node) in CONTRACTIONS} <= block_of.keys()
    assert all(any(operator(nodes[name]) in LAYERS for name in block.nodes) for block in blocks)
    # In graph order, within and among each other, wherever the image is what is computed on.
    runs = [[order[name] for name in block.nodes if name in of_image] for block in blocks]
    assert [index for run in runs for index in run] == sorted(
        order[name] for name in block_of.keys() & of_image
    )
    made = {name for name in of_image if nodes[name].op == "placeholder"}
    for block in blocks:
        read = {source.name for name in block.nodes for source in nodes[name].all_input_nodes}
        read_by_tensors = {
            source.name
            for name in of_image.intersection(block.nodes)
            for source in nodes[name].all_input_nodes
        }
        assert read_by_tensors & of_image - {*block.nodes} == {*block.inputs}
        assert made.issuperset(block.inputs)
        assert {*block.outputs} <= {*block.nodes} & of_image
        assert all(
            isinstance(nodes[name].meta["val"], torch.Tensor) for name in (*block.inputs, *block.outputs)
        )
        # What no image reaches comes from here or from an earlier block.
        assert {name for name in read & block_of.keys() if name not in of_image} <= {
            name for name in block_of if blocks.index(block_of[name]) <= blocks.index(block)
        }
        made |= {*block.outputs}
    assert len({block.name for block in blocks}) == len(blocks)
    for bridge in find_bridges(program):
        for side in (bridge.enter, bridge.leave):
            assert len({block_of[name].name for name in side}) <= 1
            assert all(block_of[name].kind == "bridge" for name in side)


class MobileVitBlock(nn.Module):
    """Local convolutions, a transformer on its tokens, and a fusion with the input."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.local = nn.Sequential(convolution(), nn.Conv2d(WIDTH, WIDTH, 1))
        self.transformer = nn.Sequential(*(Layer() for _ in range(layers)))
        self.project = convolution(kernel=1)
        self.fusion = convolution(2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.transformer(self.local(x).flatten(2).transpose(1, 2))
        mixed = self.project(tokens.transpose(1, 2).unflatten(2, GRID))
        return self.fusion(torch.cat([x, mixed], dim=1))


class TwoStreams(nn.Module):
    """Two transformers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(patches(), ToTokens()) for _ in range(2))
        self.layers = nn.ModuleList(Layer() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        for index in (0, 2):
            left, right = self.layers[index](left), self.layers[index + 1](right)
        return torch.cat([left, right], dim=1)


PIECES = {
    "convolution": convolution,
    "bottleneck": bottleneck,
    "residual bottleneck": lambda: Residual(bottleneck()),
    "gate": lambda: SqueezeExcitation(WIDTH),
    "pooling mixer": lambda: Residual(nn.AvgPool2d(3, 1, 1)),
    "position code": lambda: Residual(depthwise()),
    "layer": lambda: nn.Sequential(ToTokens(), Layer(), ToMap()),
    "attention": lambda: nn.Sequential(ToTokens(), attention(), ToMap()),
    "hybrid": lambda: MobileVitBlock(2),
    "activation": nn.ReLU,
}


class TestWhatBelongsTogether:
    def test_a_vit_is_stem_layers_and_head(self):
        stem_, first, second, head = blocks_of(patches(), ToTokens(), Layer(), Layer())
        assert [block.kind for block in (stem_, first, head)] == ["stem", "transformer", "head"]
        assert [block.name for block in (stem_, first, second, head)] == ["0", "2", "3", "4.head"]
        for before, after in zip((stem_, first, second), (first, second, head), strict=True):
            assert before.outputs == after.inputs
        assert len(stem_.inputs) == 1

    def test_an_attention_without_feed_forward_is_a_block(self):
        assert shape(patches(), ToTokens(), attention(), attention()) == (
            "stem:0 transformer:2 transformer:3 head:4.head"
        )

    def test_a_feed_forward_that_convolves_belongs_to_its_attention(self):
        layer = nn.Sequential(ToTokens(), attention(), ToMap(), Residual(bottleneck()))
        assert shape(patches(), layer, layer) == "stem:0 transformer:1 transformer:2 head:3.head"

    def test_so_do_depthwise_convolutions_on_the_way_to_it(self):
        layer = nn.Sequential(
            ToTokens(), attention(), ToMap(), depthwise(), ToTokens(), feed_forward(), ToMap()
        )
        assert shape(patches(), layer) == "stem:0 transformer:1 head:2.head"

    @pytest.mark.parametrize("stride", [1, 2])
    def test_expand_depthwise_and_project_are_one_block(self, stride):
        assert shape(stem(), bottleneck(stride), bottleneck(stride)) == "stem:0.0 conv:1 conv:2 head:3.head"

    def test_with_the_sum_as_well(self):
        assert shape(stem(), Residual(bottleneck())) == "stem:0.0 conv:1 head:2.head"

    def test_a_bottleneck_is_not_parted_by_a_gate(self):
        gated = nn.Sequential(
            nn.Conv2d(WIDTH, 16, 1), nn.SiLU(), depthwise(16), SqueezeExcitation(16), nn.Conv2d(16, WIDTH, 1)
        )
        assert shape(stem(), gated, bottleneck()) == "stem:0.0 conv:1 conv:2 head:3.head"

    @pytest.mark.parametrize("mixer", [lambda: nn.AvgPool2d(3, 1, 1), depthwise])
    def test_a_branch_that_only_mixes_places_goes_with_the_next(self, mixer):
        meta = nn.Sequential(Residual(mixer()), Residual(bottleneck()))
        assert shape(stem(), meta, meta) == "stem:0.0 conv:1 conv:2 head:3.head"

    def test_merging_patches_goes_with_the_layer_after_it(self):
        merge = nn.Linear(WIDTH, WIDTH)
        assert shape(patches(), ToTokens(), Layer(), merge, Layer()) == (
            "stem:0 transformer:2 transformer:3..4 head:5.head"
        )

    def test_the_stem_keeps_to_itself(self):
        assert shape(stem(), convolution(), bottleneck()) == "stem:0..1 conv:2 head:3.head"

    def test_each_side_of_a_bridge_is_one_block(self):
        found = blocks_of(stem(), bottleneck(), MobileVitBlock(3), bottleneck())
        assert [(block.kind, block.name) for block in found] == [
            ("stem", "0.0"),
            ("conv", "1"),
            ("bridge", "2.local.0..transformer.0"),
            ("transformer", "2.transformer.1"),
            ("bridge", "2.transformer.2..fusion.0"),
            ("conv", "3"),
            ("head", "4.head"),
        ]

    def test_both_sides_are_where_the_stage_is_one_layer(self):
        found = blocks_of(stem(), bottleneck(), MobileVitBlock(1), bottleneck())
        assert [block.name for block in found] == ["0.0", "1", "2", "3", "4.head"]

    def test_a_step_of_another_stream_does_not_part_it(self):
        class Inner(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.outer, self.inner = nn.Linear(WIDTH, WIDTH), Layer()

            def forward(self, x: Tensor) -> Tensor:
                outer = self.outer(x)
                return torch.cat([self.inner(x), outer], dim=1)

        found = blocks_of(convolution(3), ToTokens(), Inner())
        assert [block.kind for block in found] == ["bridge", "head"]
        assert len(found[0].outputs) == 2

    def test_a_skip_around_a_whole_layer_does_not_part_it_from_the_head(self):
        feed = (nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))
        layer = Residual(nn.LayerNorm(WIDTH), attention(), *feed)
        assert shape(patches(), ToTokens(), layer) == "stem:0 transformer:2.branch head:3.head"

    def test_a_mixer_of_places_may_stand_before_the_feed_forward(self):
        layer = nn.Sequential(
            ToTokens(), attention(), ToMap(), Residual(depthwise()), ToTokens(), feed_forward()
        )
        assert shape(patches(), layer) == "stem:0 transformer:1 head:2.head"


class TestWhatCrosses:
    def test_a_skip_is_an_input_where_it_ends_and_nowhere_before(self):
        _, before, enter, middle, leave, _, _ = blocks_of(
            stem(), bottleneck(), MobileVitBlock(3), bottleneck()
        )
        assert enter.inputs == before.outputs
        assert middle.inputs == enter.outputs
        assert set(leave.inputs) == {*middle.outputs, *before.outputs}

    def test_streams_side_by_side_are_blocks_of_their_own(self):
        found = blocks_of(TwoStreams())
        layers = [block for block in found if block.kind == "transformer"]
        assert [block.name for block in layers] == [f"0.layers.{index}" for index in range(4)]
        assert layers[2].inputs == layers[0].outputs
        assert layers[3].inputs == layers[1].outputs
        assert set(found[-1].inputs) == {*layers[2].outputs, *layers[3].outputs}

    def test_what_no_image_reaches_belongs_to_its_first_reader(self):
        class Shifted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(torch.ones(WIDTH))
                self.first, self.second = Layer(), Layer()

            def forward(self, x: Tensor) -> Tensor:
                shift = self.shift.exp()
                return self.second(self.first(x) + shift) + shift

        found = blocks_of(patches(), ToTokens(), Shifted())
        assert [("exp" in block.nodes) for block in found] == [False, True, False, False]
        assert all("exp" not in block.inputs for block in found)


def test_without_modules_a_block_is_named_by_its_nodes():
    weight = torch.ones(3, 3)
    (block,) = find_blocks(program_of(lambda x: nn.functional.linear(x, weight).relu(), (3,)))
    assert block.name == "linear..relu"


def test_a_graph_without_layers_is_one_block_and_an_empty_one_none():
    (block,) = find_blocks(program_of(lambda x: x.relu().flatten(1), IMAGE))
    assert block.nodes == ("relu", "flatten")
    assert find_blocks(program_of(nn.Identity(), IMAGE)) == ()


def test_costs_add_up_to_the_whole():
    program = program_of(nn.Sequential(patches(), ToTokens(), Layer(), Layer(), Classify()), IMAGE)
    costs = block_costs(program, find_blocks(program))
    assert sum(cost.parameters for cost in costs) == program.parameter_count
    assert sum(cost.macs for cost in costs) == count_macs(program)
    assert costs[1] == costs[2]


def test_weights_that_two_blocks_share_count_in_the_first():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    program = program_of(nn.Sequential(patches(), ToTokens(), Twice(), Classify()), IMAGE)
    found = find_blocks(program)
    assert found[1].name != found[2].name
    _, first, second, _ = block_costs(program, found)
    assert first.parameters > 0
    assert second.parameters == 0
    assert first.macs == second.macs > 0


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_a_batch_of_one_size_gives_the_same_blocks(dynamic_batch):
    module = nn.Sequential(stem(), MobileVitBlock(2), Classify())
    found = find_blocks(program_of(module, IMAGE, dynamic_batch=dynamic_batch))
    assert [block.kind for block in found] == ["stem", "bridge", "bridge", "head"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(sorted(PIECES)), max_size=6))
def test_blocks_are_a_partition_whatever_is_stacked(pieces):
    check_partition(
        program_of(nn.Sequential(stem(), *(PIECES[piece]() for piece in pieces), Classify()), IMAGE)
    )


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_blocks_are_a_partition_of_every_model(name):
    captured = zoo_program(name)
    for program in (captured, prepare_for_export(captured)):
        check_partition(program)
        assert len(find_blocks(program)) == COUNTS[name]
