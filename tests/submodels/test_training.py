"""Training that makes the first units of a layer a network by themselves."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.program import Program, export_module
from edgevit.pruning import loop
from edgevit.pruning.loop import TrainingOptions
from edgevit.submodels.extraction import extract, masked
from edgevit.submodels.nesting import nesting_of
from edgevit.submodels.training import NestedOptions, train_nested
from tests.pruning.patterns import CARD, SIZE, TinyViT, patterns
from tests.submodels.helpers import logits, relative

HIDDEN = "block.fc1:hidden"
SHORT = TrainingOptions(epochs=2, batch=16, lr=1e-3)


@functools.cache
def start() -> Program:
    torch.manual_seed(0)
    module = TinyViT().eval()
    return Program(export_module(module, torch.zeros(2, 3, SIZE, SIZE), dynamic_batch=True), CARD)


def trained(**given: object) -> Program:
    nested = {name: given.pop(name) for name in tuple(given) if name in NestedOptions.__dataclass_fields__}
    return train_nested(start(), *patterns(48), nested=NestedOptions(**nested), options=SHORT, **given)


def accuracy(program: Program) -> float:
    images, labels = patterns(240, seed=5)
    return float((logits(program, images).argmax(1) == labels).float().mean())


def same_bits(left: Program, right: Program) -> bool:
    others = right.exported.state_dict
    return all(torch.equal(value, others[path]) for path, value in left.exported.state_dict.items())


def test_narrow_submodels_learn_as_well():
    options = TrainingOptions(epochs=8, batch=48, lr=5e-3)
    found = train_nested(start(), *patterns(960, seed=1), options=options)
    allowed = nesting_of(found).widths[HIDDEN]
    assert allowed == (8, 16, 32, 64)
    accuracies = [accuracy(extract(found, {HIDDEN: width})) for width in allowed]
    # Chance is a sixth.
    assert min(accuracies) > 0.75
    assert accuracies[-1] - accuracies[0] < 0.15
    step = found.card.steps[-1]
    assert (step.name, step.options["granularity"]) == ("train-nested", "joint")


def test_a_submodel_equals_its_masked_parent():
    found = trained(roles=("hidden", "heads"))
    images, _ = patterns(12)
    widths = {name: allowed[0] for name, allowed in nesting_of(found).widths.items()}
    assert len(widths) == 2
    assert relative(logits(extract(found, widths), images), logits(masked(found, widths), images)) < 1e-5


@pytest.mark.parametrize("granularity", ["joint", "sampled"])
def test_the_same_seed_gives_the_same_bits(granularity):
    assert same_bits(trained(granularity=granularity), trained(granularity=granularity))
    assert not same_bits(trained(granularity=granularity), start())


def test_an_interrupted_run_goes_on(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    original = loop.Loop._epoch

    def stop(self, epoch: int) -> float:
        if epoch == 1:
            raise KeyboardInterrupt
        return original(self, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Loop, "_epoch", stop)
        trained(checkpoint=path)
    with pytest.raises(EdgevitError, match="another"):
        trained(checkpoint=path, distil=0.1)
    assert same_bits(trained(checkpoint=path), trained())
    assert not path.exists()


def test_without_distillation_the_loss_is_the_mean_of_the_cross_entropies():
    """One step of one image, at a rate so small that nothing changes."""
    options = TrainingOptions(epochs=1, batch=6, lr=1e-12)
    images, labels = patterns(6)
    nested = NestedOptions(shares=(0.5, 1.0), distil=0.0)
    found = train_nested(start(), images, labels, nested=nested, options=options)
    expected = [
        float(nn.functional.cross_entropy(logits(extract(found, {HIDDEN: width}), images), labels))
        for width in (32, 64)
    ]
    assert found.card.steps[-1].measured["losses"] == [pytest.approx(sum(expected) / 2, rel=1e-4)]


def test_bfloat16_trains_about_as_well():
    found = train_nested(start(), *patterns(48), options=replace(SHORT, precision="bfloat16"))
    assert all(value.dtype != torch.bfloat16 for value in found.exported.state_dict.values())
    assert not same_bits(found, trained())
    images, _ = patterns(12)
    assert relative(logits(found, images), logits(trained(), images)) < 0.2


def test_all_units_always_are_a_width():
    assert nesting_of(trained(shares=(0.5,))).widths == {HIDDEN: (32, 64)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.5, 1.5)}, "^--widths: 1.5 is no share"),
        ({"distil": 2.0}, "^distil: must be 0 to 1"),
        ({"granularity": "both"}, "^granularity: 'both' is unknown"),
        ({"roles": ("channels",)}, "has no axis of role channels that can be nested"),
        ({"roles": ("layers",)}, "^--role: 'layers' is unknown"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(EdgevitError, match=message):
        trained(**options)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(0, 3, SIZE, SIZE), torch.zeros(0, dtype=torch.int64), "^images: there are none"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64), "^images: each is"),
        (torch.zeros(2, 3, SIZE, SIZE), torch.tensor([0, 6]), "^labels: image 1 has the label 6"),
    ],
)
def test_data_that_does_not_fit(images, labels, message):
    with pytest.raises(EdgevitError, match=message):
        train_nested(start(), images, labels)
