"""What may stand in for residual branches, and the submodels in which it does."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Dimensions
from edgevit.graph.costs import count_macs
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.running import Runner
from edgevit.submodels.branches import branches_of
from edgevit.submodels.consistency import Reference
from edgevit.submodels.costing import Counted
from edgevit.submodels.elastic import elastic
from edgevit.submodels.extraction import extract, masked, refitted
from edgevit.submodels.nesting import nesting_of
from edgevit.submodels.places import places_of
from tests.conformance import program_of as zoo_program
from tests.pruning.helpers import program_of
from tests.pruning.patterns import learned, patterns
from tests.submodels.helpers import logits, relative


class Net(nn.Module):
    """A residual branch of convolutions in NCHW that is linear, behind it one of tokens that is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.first, self.second = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        nn.init.zeros_(self.down.weight)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.stem(image)
        maps = maps + self.second(self.first(maps))
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.down(self.up(tokens).relu())
        return self.head(tokens.mean(1))


@functools.cache
def images() -> torch.Tensor:
    return torch.randn(48, 3, 8, 8, generator=torch.manual_seed(0))


@functools.cache
def net() -> Program:
    torch.manual_seed(0)
    return program_of(Net(), (3, 8, 8))


@functools.cache
def parent() -> Program:
    return elastic(net(), images().numpy(), shares=(0.5,), replacements=("skip", "linear")).program


@functools.cache
def patterns_parent() -> Program:
    made = elastic(
        learned(), patterns(64)[0].numpy(), roles=("hidden", "heads"), replacements=("skip", "linear")
    )
    return made.program


def branch_names() -> tuple[str, str]:
    maps, tokens = nesting_of(parent()).replacements
    return maps, tokens


def test_a_linear_branch_is_replaced_by_one_layer_without_loss():
    maps, _ = branch_names()
    small = extract(parent(), {maps: "linear"})
    assert relative(logits(small, images()), logits(parent(), images())) < 1e-3
    assert len(small.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)) == 2


def test_a_constant_branch_is_replaced_by_its_mean_without_loss():
    _, tokens = branch_names()
    small = extract(parent(), {tokens: "skip"})
    assert relative(logits(small, images()), logits(parent(), images())) < 1e-5
    # A linear layer would be no better than the mean.
    assert nesting_of(parent()).replacements[tokens] == ("skip",)


def test_the_mean_is_that_of_what_the_branch_adds():
    maps, _ = branch_names()
    branch = branches_of(Dimensions(parent()))[maps]
    runner = Runner(parent())
    added = runner.run({runner.image: images()}, [branch.result])[branch.result]
    stand = nesting_of(parent()).stands[maps, "skip"]
    assert torch.allclose(stand.bias, added.mean((0, 2, 3)), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_a_submodel_with_stands_equals_its_masked_parent_and_costs_what_is_counted(data):
    widths = {}
    for place in places_of(patterns_parent()):
        label = str(place.branch or place.axis)
        widths |= place.named(data.draw(st.sampled_from(place.options), label=label))
    small = extract(patterns_parent(), widths)
    test, _ = patterns(12)
    assert relative(logits(small, test), logits(masked(patterns_parent(), widths), test)) < 1e-5
    assert Counted(patterns_parent(), "macs")(widths) == count_macs(small)
    assert Counted(patterns_parent(), "parameters")(widths) == small.parameter_count


def test_layers_behind_a_replaced_branch_make_up_for_it():
    first, second = nesting_of(patterns_parent()).replacements
    test, _ = patterns(96, seed=4)
    reference = Reference.of(patterns_parent(), test.numpy())
    for widths in ({first: "linear"}, {first: "skip", second: "linear"}):
        small = extract(patterns_parent(), widths)
        fitted = refitted(patterns_parent(), widths, patterns(64)[0])
        before, after = (reference.consistency(one).divergence for one in (small, fitted))
        assert after < 0.5 * before


def test_a_saved_parent_keeps_what_stands_in(tmp_path):
    loaded = Program.load(parent().save(tmp_path / "parent.pt2"))
    assert nesting_of(loaded).replacements == nesting_of(parent()).replacements
    widths = dict.fromkeys(branch_names(), "skip")
    assert torch.equal(logits(extract(loaded, widths), images()), logits(extract(parent(), widths), images()))


@pytest.mark.parametrize("name", ["deit_tiny", pytest.param("mobilevit_xxs", marks=pytest.mark.slow)])
def test_the_innermost_branches_of_a_real_model(name):
    branches = branches_of(Dimensions(prepare_for_export(zoo_program(name))))
    if name == "deit_tiny":
        assert list(branches) == [f"blocks.{i}.{part}" for i in range(12) for part in ("attn", "mlp")]
    nodes = [node for branch in branches.values() for node in branch.block.nodes]
    assert branches
    assert len(nodes) == len(set(nodes))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replacements": ("mean",)}, "--blocks: 'mean' is unknown; known"),
        ({"replacements": ("skip",), "roles": ("hidden", "residual")}, "--blocks with --role residual"),
    ],
)
def test_what_cannot_stand_in(given, message):
    with pytest.raises(EdgevitError, match=message):
        elastic(net(), images().numpy(), **given)


def test_a_model_without_residual_branches():
    plain = program_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)), (3, 2, 2))
    with pytest.raises(EdgevitError, match="has no residual branch that could be replaced"):
        elastic(plain, torch.randn(32, 3, 2, 2).numpy(), replacements=("skip",))


def test_a_branch_or_a_stand_that_there_is_not():
    maps, tokens = branch_names()
    with pytest.raises(EdgevitError, match=r"'linear'; .* is nested at skip"):
        extract(parent(), {tokens: "linear"})
    with pytest.raises(EdgevitError, match="is not nested by it; did you mean"):
        extract(parent(), {maps + "x": "skip"})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nested/nowhere/skip/bias", torch.zeros(8), "is no residual branch"),
        ("nested/{maps}/skip/bias", torch.zeros(7), "is damaged: what stands in for"),
        ("nested/{maps}/skip/bias", torch.full((8,), torch.nan), "is damaged: what stands in for"),
        ("nested/{maps}/skip/weight", torch.zeros(8, 8), "is damaged: what stands in for"),
        ("nested/{tokens}/linear/weight", torch.zeros(8, 8), "stands in for a branch has no bias"),
    ],
)
def test_a_file_that_says_what_cannot_be(path, value, message, tmp_path):
    maps, tokens = branch_names()
    program = Program.load(parent().save(tmp_path / "parent.pt2"))
    program.exported.constants[path.format(maps=maps, tokens=tokens)] = value
    with pytest.raises(EdgevitError, match=message):
        nesting_of(program)
