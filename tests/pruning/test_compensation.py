"""Layers are fitted to what they gave before, and errors are mended and not passed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import Axis
from edgevit.graph.program import Program
from edgevit.graph.running import Runner
from edgevit.graph.slicing import slice_axes
from edgevit.pruning.compensation import compensate
from edgevit.pruning.regression import Compensated
from tests.pruning.nets import Attention, Convolutions, Mixer, axis_of, program
from tests.quant.helpers import Folded, Tokens, all_named, images, logits, named
from tests.test_slicing import Block, free

Keep = dict[Axis, Sequence[int]]


def fitted(
    found: Program, keep: Keep, batch: torch.Tensor
) -> tuple[Program, Program, tuple[Compensated, ...]]:
    """The slice, the same fitted, and what became of its layers."""
    small = slice_axes(found, keep)
    return small, *compensate(found, small, keep, batch)


def error(found: Program, other: Program, batch: torch.Tensor) -> float:
    """Of the logits, relative to what they are."""
    expected = logits(found, batch)
    return float((logits(other, batch) - expected).square().mean() / expected.var())


class Copies(nn.Module):
    """A hidden layer of which the second half is the first, twice as loud."""

    def __init__(self, up: nn.Module, down: nn.Module, *, pixels: bool = True) -> None:
        super().__init__()
        self.up, self.down, self.head, self.pixels = up, down, nn.Linear(6, 4), pixels
        with torch.no_grad():
            for value in (up.weight, up.bias):
                if value is not None:
                    value[5:] = 2 * value[:5]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.up(image if self.pixels else image.flatten(2).transpose(1, 2)).relu()
        made = self.down(made)
        return self.head(made.mean((2, 3)) if self.pixels else made.mean(1))


COPIES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Copies(nn.Linear(3, 10), nn.Linear(10, 6), pixels=False),
    "without biases": lambda: Copies(
        nn.Linear(3, 10, bias=False), nn.Linear(10, 6, bias=False), pixels=False
    ),
    "pixels": lambda: Copies(nn.Conv2d(3, 10, 1), nn.Conv2d(10, 6, 1)),
    "stride and padding": lambda: Copies(nn.Conv2d(3, 10, 3), nn.Conv2d(10, 6, 3, stride=2, padding=1)),
    "dilation": lambda: Copies(nn.Conv2d(3, 10, 1), nn.Conv2d(10, 6, 2, dilation=3)),
    "no bias behind": lambda: Copies(nn.Conv2d(3, 10, 1), nn.Conv2d(10, 6, 3, bias=False)),
}


@pytest.mark.parametrize("name", sorted(COPIES))
def test_units_that_others_say_are_made_up_for_exactly(name):
    found = program(COPIES[name])
    (axis,) = (axis for axis in free(found) if axis.size == 10)
    small, mended, results = fitted(found, {axis: range(5)}, images(64))
    assert error(found, small, images(32, seed=1)) > 0.05
    assert error(found, mended, images(32, seed=1)) < 1e-5
    first = results[0]
    assert first.before > 0.05
    assert first.after < 1e-6
    assert first.ridge == 1e-4


def test_a_unit_that_never_changes_moves_into_the_bias():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.head = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 4)
            with torch.no_grad():
                self.up.weight[3:] = 0
                self.up.bias[3:] = 2

        def forward(self, image):
            return self.head(self.down(self.up(image.mean((2, 3))).relu()))

    found = program(Constant)
    (axis,) = (axis for axis in free(found) if axis.size == 6)
    _, mended, _ = fitted(found, {axis: range(3)}, images(64))
    assert error(found, mended, images(32, seed=1)) < 1e-6


NETS: dict[str, Callable[[], nn.Module]] = {
    "block": Block,
    "attention": Attention,
    "spelled": lambda: Attention(spelled=True, bias=False),
    "convolutions": Convolutions,
    "convolutions without biases": lambda: Convolutions(bias=False),
    "mixer": Mixer,
    "tokens": Tokens,
    "folded": Folded,
}
PROGRAMS = {name: program(module) for name, module in NETS.items()}


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(NETS)), st.randoms(use_true_random=False))
def test_no_layer_says_that_it_became_worse(name, source):
    found = PROGRAMS[name]
    keep = {
        axis: sorted(source.sample(range(axis.size), source.randint(1, axis.size)))
        for axis in free(found)
        if source.random() < 0.7
    }
    small, mended, results = fitted(found, keep, images(40))
    for result in results:
        assert 0 <= result.after <= result.before
        assert (result.ridge is None) == (result.after == result.before)
    stored, before = mended.exported.state_dict, small.exported.state_dict
    assert {path: value.shape for path, value in stored.items()} == {
        path: value.shape for path, value in before.items()
    }
    assert bool(torch.isfinite(logits(mended, images(3))).all())


@pytest.mark.parametrize("name", sorted(set(NETS) - {"folded"}))
def test_what_is_fitted_is_closer_on_other_images(name):
    found = PROGRAMS[name]
    keep = {axis: range(0, axis.size, 2) for axis in free(found) if axis.role not in {"residual", "heads"}}
    assert keep
    small, mended, _ = fitted(found, keep, images(256))
    assert error(found, mended, images(64, seed=1)) < error(found, small, images(64, seed=1))


def test_keeping_everything_changes_nothing():
    found = PROGRAMS["block"]
    small, mended, results = fitted(found, {axis: range(axis.size) for axis in free(found)}, images(16))
    assert results == ()
    assert torch.equal(logits(mended), logits(small))


def test_layers_before_the_first_slice_are_left_alone():
    found = PROGRAMS["block"]
    _, mended, results = fitted(found, {axis_of(found, "hidden"): range(4)}, images(32))
    linears = [node.name for node in all_named(found, "linear")]
    assert [result.layer for result in results] == linears[-2:]
    before, after = found.exported.state_dict, mended.exported.state_dict
    changed = {path for path, value in after.items() if not torch.equal(value, before[path])}
    assert {path.split(".")[0] for path in changed} <= {"up", "down", "head"}


class Skips(nn.Module):
    """Two layers that are added to what they read, the first of which loses its units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 12), nn.Linear(12, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        tokens = tokens + self.down(self.up(tokens).sigmoid())
        return self.head((tokens + self.mix(tokens)).mean(1))


def test_what_went_wrong_in_a_skip_connection_is_mended_behind_it():
    """The layer's own result moves away from what it was, so that the sum comes closer to what it was."""
    found = program(Skips)
    keep = {axis_of(found, "hidden", 12): range(1)}
    small, mended, results = fitted(found, keep, images(128))
    batch, errors = images(64, seed=1), {}
    first, second = all_named(found, "add")
    for name, one in {"small": small, "mended": mended}.items():
        differences = []
        for node in (first, second):
            values = []
            for run in (Runner(found), Runner(one)):
                with torch.no_grad():
                    values.append(run.run({run.image: batch}, [node.name])[node.name])
            differences.append(float((values[0] - values[1]).square().mean()))
        errors[name] = differences
    assert errors["mended"][0] < errors["small"][0]
    assert errors["mended"][1] < errors["mended"][0] / 2
    assert len(results) == 3


def test_convolutions_in_groups_are_left_alone():
    found = PROGRAMS["convolutions"]
    keep = {axis_of(found, "channels", 6): range(3)}
    _, _, results = fitted(found, keep, images(32))
    grouped = {node.name for node in all_named(found, "conv2d") if node.args[6:] not in {(), (1,)}}
    assert len(grouped) == 2
    assert not grouped & {result.layer for result in results}
    assert {result.layer for result in results} >= {named(found, "linear").name}


class Shared(nn.Module):
    """One layer twice in a row, behind one that loses units."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 9), nn.Linear(9, 6)
        self.twice, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.down(self.up(image.mean((2, 3))).relu())
        return self.head(self.twice(self.twice(made).relu()).relu())


def test_a_weight_of_two_layers_stays_one():
    found = program(Shared)
    (axis,) = (axis for axis in free(found) if axis.size == 9)
    small, mended, results = fitted(found, {axis: range(3)}, images(32))
    assert len(results) == 2
    assert mended.exported.state_dict.keys() == small.exported.state_dict.keys()


class HeadsInTheBatch(nn.Module):
    """A layer that reads the width of heads that lie in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.value = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 3 * 4)
        self.up, self.down, self.head = nn.Linear(4, 10), nn.Linear(10, 5), nn.Linear(15, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = self.value(self.embed(image).flatten(2).transpose(1, 2)).unflatten(-1, (3, 4))
        by_head = values.transpose(1, 2).reshape(-1, 16, 4)
        made = self.down(self.up(by_head).relu()).reshape(-1, 3, 16, 5)
        return self.head(made.transpose(1, 2).flatten(2).mean(1))


def test_heads_in_the_batch_can_be_cut_and_what_they_pass_is_left_alone():
    found = program(HeadsInTheBatch)
    (heads,) = (axis for axis in free(found) if axis.size == 3)
    (hidden,) = (axis for axis in free(found) if axis.size == 10)
    batch = images(64)
    small, mended, results = fitted(found, {heads: [0, 2], hidden: range(5)}, batch)
    assert [result.layer for result in results] == [all_named(found, "linear")[-1].name]
    assert error(found, mended, batch) < error(found, small, batch)
    _, _, results = fitted(found, {hidden: range(5)}, batch)
    assert len(results) == 2


def test_what_is_dead_is_no_reason_to_fail():
    def module():
        net = Copies(nn.Linear(3, 10), nn.Linear(10, 6), pixels=False)
        nn.init.zeros_(net.up.weight)
        nn.init.constant_(net.up.bias, -1)
        return net

    found = program(module)
    (axis,) = (axis for axis in free(found) if axis.size == 10)
    _, mended, _ = fitted(found, {axis: range(5)}, images(32))
    torch.testing.assert_close(logits(mended), logits(found))


def test_large_means_do_not_hide_what_varies():
    """What is read varies by a thousandth of its mean."""

    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.head = nn.Linear(3, 10), nn.Linear(10, 6), nn.Linear(6, 4)

        def forward(self, image):
            return self.head(self.down(self.up(image.flatten(2).transpose(1, 2)) + 1000).mean(1))

    found = program(Far)
    (axis,) = (axis for axis in free(found) if axis.size == 10)
    # Three numbers alone are behind all ten.
    _, mended, results = fitted(found, {axis: range(6)}, images(64))
    assert results[0].after < 1e-2
    assert error(found, mended, images(32, seed=1)) < 1e-2


def test_the_same_images_give_the_same_weights_and_in_another_order_nearly_the_same():
    found = PROGRAMS["block"]
    keep = {axis_of(found, "hidden"): range(10), axis_of(found, "value"): range(4)}
    batch = images(256)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    first, again, other = (fitted(found, keep, one)[1] for one in (batch, batch, batch[order]))
    assert torch.equal(logits(first), logits(again))
    difference = (logits(first) - logits(other)).square().mean() / logits(found).var()
    assert float(difference) < 0.2 * error(found, first, images(12))


def test_images_that_fill_no_last_batch_are_used():
    found = PROGRAMS["block"]
    keep = {axis_of(found, "hidden"): range(10)}
    _, mended, results = fitted(found, keep, images(19))
    assert len(results) == 2
    assert mended.batch is None


@pytest.mark.parametrize("count", [0, 15])
def test_too_few_images_are_refused(count):
    found = PROGRAMS["block"]
    keep = {axis_of(found, "hidden"): range(10)}
    with pytest.raises(EdgevitError, match=f"{count} images to compensate with: give 16 or more"):
        fitted(found, keep, images(20)[:count])


class Reshaped(nn.Module):
    """Sizes that are worked out from what is sliced."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.embed(image)
        batch = made.shape[0]
        rows = made.permute(0, 2, 3, 1).reshape(batch * 16, made.shape[1])
        rows = rows + self.mix(rows).relu()
        columns = rows.reshape(batch, 16, 6).transpose(1, 2).reshape(batch * 6, 16)
        return self.head(columns.softmax(-1).amax(-1).reshape(batch, 6))


def test_sizes_that_became_literals_are_no_obstacle():
    found = program(Reshaped)
    axis = axis_of(found, "residual", 6)
    whole = {node.name for node in found.graph.nodes}
    small, mended, results = fitted(found, {axis: [0, 2, 3]}, images(64))
    assert {node.name for node in small.graph.nodes} != whole
    assert results
    assert error(found, mended, images(64)) < error(found, small, images(64))
