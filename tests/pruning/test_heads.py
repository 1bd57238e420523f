"""What is done to a classifier's last layer, on every kind of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import Node

from edgevit.errors import EdgevitError
from edgevit.graph.axes import find_axes, stored_tensors
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor
from edgevit.graph.running import Runner
from edgevit.graph.slicing import slice_axis
from edgevit.pruning.heads import classifier_of, weights_of_classifier, with_classes, with_features
from tests.pruning.helpers import CLASSES, MODULES, classifier
from tests.quant.helpers import SHAPE, images
from tests.rewrites.helpers import program_of

LABELS = ("cat", "dog", "frog", "ship")
PROGRAMS = {name: classifier(name) for name in MODULES}


def labelled(program: Program, labels: tuple[str, ...] = LABELS) -> Program:
    return Program(program.exported, program.card.model_copy(update={"labels": labels}))


def outputs(program: Program, count: int = 12) -> list[torch.Tensor]:
    return [torch.from_numpy(output) for output in program.run(images(count).numpy())]


def assert_close(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    """Equal but for the order of sums, which kernels choose by sizes and addresses."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-5)


every = pytest.mark.parametrize("name", MODULES)


@every
def test_the_classifier_gives_the_logits(name):
    program = PROGRAMS[name]
    layer, runner = classifier_of(program), Runner(program)
    with torch.no_grad():
        found = runner.run({runner.image: images()}, [layer.name])[layer.name]
    assert_close([found.flatten(1)], outputs(program))


@every
def test_features_are_what_the_classifier_reads(name):
    program = PROGRAMS[name]
    found = with_features(program)
    assert found.card.outputs == ("logits", "features")
    logits, features = outputs(found)
    assert torch.equal(logits, outputs(program)[0])
    weight, bias = weights_of_classifier(program)
    assert torch.allclose(features @ weight.T + bias, logits, atol=1e-6)


def in_few_bits(program: Program) -> Program:
    """With weights that make every sum exact, in whatever order it is taken."""
    editor = Editor(program)
    for placeholder, _, value in stored_tensors(program):
        node = next(node for node in editor.graph.nodes if node.name == placeholder.name)
        editor.set_value(node, (value * 8).round() / 8)
    return editor.finish("round")


@pytest.mark.parametrize("name", MODULES.keys() - {"tokens"})  # its softmax has all bits
@pytest.mark.parametrize("kept", [[0], [2, 3], [3, 0, 1]], ids=str)
def test_kept_logits_are_the_old_ones_to_the_bit(name, kept):
    program = in_few_bits(PROGRAMS[name])
    data = (images() * 2).round().numpy() / 2
    found = with_classes(program, kept)
    assert found.num_classes == len(kept) + 1
    assert np.array_equal(found.run(data)[0][:, :-1], program.run(data)[0][:, kept])


@every
@pytest.mark.parametrize("kept", [[0], [2, 3], [3, 0, 1]], ids=str)
def test_kept_rows_are_the_old_ones_to_the_bit(name, kept):
    program = PROGRAMS[name]
    found = with_classes(program, kept)
    assert_close([outputs(found)[0][:, :-1]], [outputs(program)[0][:, kept]])
    layer, before = (classifier_of(given).all_input_nodes[1:] for given in (found, program))
    (weight, bias), (old_weight, *old_bias) = values(found, layer), values(program, before)
    assert torch.equal(weight[:-1], old_weight[kept])
    assert torch.equal(bias[:-1], old_bias[0][kept] if old_bias else torch.zeros(len(kept)))


def values(program: Program, placeholders: list[Node]) -> list[torch.Tensor]:
    stored = {node.name: value for node, _, value in stored_tensors(program)}
    return [stored[node.name] for node in placeholders]


@every
def test_other_starts_as_the_mean_of_the_rest_and_the_logarithm_of_their_number(name):
    program = PROGRAMS[name]
    found, before = outputs(with_classes(program, [1]))[0], outputs(program)[0]
    expected = before[:, [0, 2, 3]].mean(1) + math.log(3)
    assert torch.allclose(found[:, -1], expected, atol=1e-5)


def test_other_is_the_rest_itself_where_the_rest_is_one_class():
    found, before = outputs(with_classes(PROGRAMS["net"], [0, 1, 2]))[0], outputs(PROGRAMS["net"])[0]
    assert torch.allclose(found, before, atol=1e-6)


@every
def test_all_classes_in_another_order_have_no_other(name):
    program = PROGRAMS[name]
    found = with_classes(program, [2, 0, 3, 1])
    assert_close(outputs(found), [outputs(program)[0][:, [2, 0, 3, 1]]])


def test_all_classes_as_they_are_is_the_program_itself():
    assert with_classes(PROGRAMS["net"], range(CLASSES)) is PROGRAMS["net"]


@every
def test_the_given_program_stays_as_it_was(name):
    program = PROGRAMS[name]
    graph, card = str(program.graph), program.card
    weights = {path: value.clone() for path, value in program.exported.state_dict.items()}
    with_features(with_classes(program, [0, 2]))
    assert (str(program.graph), program.card) == (graph, card)
    assert all(torch.equal(program.exported.state_dict[path], value) for path, value in weights.items())


@every
def test_both_can_be_done_in_any_order_and_saved_and_loaded(tmp_path, name):
    program = PROGRAMS[name]
    one, other = with_features(with_classes(program, [0, 2])), with_classes(with_features(program), [0, 2])
    assert_close(outputs(one), outputs(other))
    for place, found in enumerate((one, other)):
        loaded = Program.load(found.save(tmp_path / f"{place}.pt2"))
        assert loaded.card == found.card
        assert_close(outputs(loaded), outputs(found))


@every
def test_it_works_on_what_was_loaded(tmp_path, name):
    loaded = Program.load(PROGRAMS[name].save(tmp_path / "a.pt2"))
    found = with_features(with_classes(loaded, [0, 2]))
    expected = with_features(with_classes(PROGRAMS[name], [0, 2]))
    assert_close(outputs(found), outputs(expected))
    again = Program.load(found.save(tmp_path / "b.pt2"))
    assert_close(outputs(again), outputs(expected))


@every
def test_the_batch_stays_as_it_is(name):
    for program in (PROGRAMS[name], PROGRAMS[name].with_batch(2)):
        found = with_features(with_classes(program, [1, 2]))
        assert found.batch == program.batch
        assert [output.shape[0] for output in outputs(found, 3)] == [3, 3]


def test_what_comes_out_can_be_sliced():
    found = with_features(with_classes(PROGRAMS["net"], [0, 2]))
    axis = next(axis for axis in find_axes(PROGRAMS["net"]) if axis.fixed is None)
    assert all(axis.fixed == "it is the result" for axis in find_axes(found) if axis.size == 8)
    sliced = with_features(with_classes(slice_axis(PROGRAMS["net"], axis, range(4)), [0, 2]))
    assert sliced.output_shapes[0][-1] == 3
    assert sliced.output_shapes[1][-1] == 4


def test_labels_follow():
    found = with_classes(labelled(PROGRAMS["net"]), [3, 1])
    assert found.card.labels == ("ship", "dog", "other")
    assert with_classes(labelled(PROGRAMS["net"]), [3, 1, 0, 2]).card.labels == ("ship", "dog", "cat", "frog")
    assert with_classes(PROGRAMS["net"], [3, 1]).card.labels is None


def test_the_card_says_which_classes_stayed():
    step = with_classes(PROGRAMS["net"], [3, 1]).card.steps[-1]
    assert (step.name, step.options) == ("with_classes", {"classes": [3, 1]})


@given(st.lists(st.integers(-1, CLASSES), max_size=CLASSES + 1))
def test_classes_are_different_ones_of_the_model_or_refused(kept):
    if kept and len(set(kept)) == len(kept) and set(kept) <= set(range(CLASSES)):
        assert with_classes(PROGRAMS["net"], kept).num_classes == min(len(kept) + 1, CLASSES)
        return
    with pytest.raises(
        EdgevitError, match=r"classes: (none are kept|.* are to stay; each must be a class of)"
    ):
        with_classes(PROGRAMS["net"], kept)


def test_a_kept_class_that_is_called_other_is_refused():
    program = labelled(PROGRAMS["net"], ("cat", "other", "frog", "ship"))
    with pytest.raises(
        EdgevitError, match='classes: a class of model is called "other", as the rest would be'
    ):
        with_classes(program, [0, 1])
    assert with_classes(program, [0, 2]).card.labels == ("cat", "frog", "other")
    assert with_classes(program, [1, 0, 2, 3]).card.labels == ("other", "cat", "frog", "ship")


def test_features_are_given_once():
    with pytest.raises(EdgevitError, match="model: it has an output named features already"):
        with_features(with_features(PROGRAMS["net"]))


class MeanOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(192, CLASSES), nn.Linear(192, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.one(image.flatten(1)) + self.two(image.flatten(1))) / 2


class Pooled(nn.Module):
    """The mean of what a layer says of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(image).flatten(2).transpose(1, 2)).mean(1)


class Spread(nn.Module):
    """Its logits are those of four tokens, one each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(image).flatten(2).transpose(1, 2)).flatten(1)


class ByPrototypes(nn.Module):
    """Its weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(CLASSES, 192))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(image.flatten(1), nn.functional.normalize(self.prototypes))


@pytest.mark.parametrize("module", [MeanOfTwo, Pooled, Spread, ByPrototypes])
@pytest.mark.parametrize("change", [classifier_of, with_features, lambda program: with_classes(program, [0])])
def test_what_no_single_linear_layer_gives_is_refused(module, change):
    program = program_of(module(), SHAPE)
    with pytest.raises(
        EdgevitError, match=r"^model: its first output is made by \w+, not by one linear layer"
    ):
        change(program)
