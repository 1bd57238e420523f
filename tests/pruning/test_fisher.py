"""Squared gradients by drawn classes are the diagonal of the Fisher information, and predict divergence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad

from edgevit.graph.information import backward
from edgevit.graph.program import Program, export_module
from edgevit.graph.running import Runner
from edgevit.pruning.fisher import Gate, channel_information, gate_information
from tests.pruning.nets import Attention, Learned, Mixer, program
from tests.quant.helpers import Folded, Net, images, named
from tests.rewrites.helpers import CARD


def scaled(found: Program, name: str, factors: torch.Tensor, place: int, batch: torch.Tensor) -> torch.Tensor:
    """The logits when the channels of a value are multiplied by factors."""
    runner = Runner(found)
    target = runner.nodes[name].target

    def compute(*args, **kwargs):
        return (target(*args, **kwargs).movedim(place, -1) * factors).movedim(-1, place)

    return runner.run({runner.image: batch}, runner.results[:1], overrides={name: compute})[runner.results[0]]


def drawn_classes(found: Program, batch: torch.Tensor, seed: int) -> torch.Tensor:
    """The classes that are drawn for a seed, from the gradients that they lead to."""
    result, parts = Runner(found).results[0], []
    backward(Runner(found), [result], batch, lambda _, values: parts.append(values[result]), seed=seed)
    return torch.cat([(gradient + logits.softmax(-1)).argmax(-1) for logits, gradient in parts])


def by_hand(found, name, place, groups, batch, seed):
    """float64 (images, groups): derivatives of each image's log-likelihood, one image after the other."""
    classes = drawn_classes(found, batch, seed)
    owners = torch.tensor(groups)
    rows = []
    for image, label in zip(batch, classes, strict=True):

        def likelihood(factors, image=image, label=label):
            every = torch.cat([factors, torch.ones(1)])[owners]
            return scaled(found, name, every, place, image[None]).log_softmax(-1)[0, label]

        rows.append(grad(likelihood)(torch.ones(int(owners.max()) + 1)))
    return torch.stack(rows).double()


GATES = {
    "channels of a convolution": (Net, "conv2d", 1, [0, 1, 2, 3] * 2),
    "some channels": (Net, "conv2d", 1, [0, -1, 1, -1, 2, -1, 3, -1]),
    "units of heads": (Attention, "linear", -1, list(range(5)) * 2),
    "rows over tokens": (Mixer, "linear", 2, list(range(10))),
    "channels that are rows": (Mixer, "linear", 1, list(range(6))),
    "windows in the batch": (Folded, "linear", -1, list(range(8))),
}


@pytest.mark.parametrize("name", sorted(GATES))
def test_the_information_of_gates_is_that_of_derivatives_one_by_one(name):
    module, operator, place, groups = GATES[name]
    found, batch = program(module), images(20)
    value = named(found, operator).name
    gate = Gate(value, place, torch.tensor(groups))
    information = gate_information(found, {"gate": gate}, batch, seed=3)["gate"]
    expected = by_hand(found, value, place, groups, batch, 3).square().mean(0)
    torch.testing.assert_close(information, expected, rtol=1e-3, atol=1e-9)


def test_a_batch_that_is_not_the_first_dimension_is_told():
    class TokensFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, image):
            return self.head(self.mix(self.embed(image).flatten(2).permute(2, 0, 1)).relu().mean(0))

    found, batch = program(TokensFirst), images(20)
    value, groups = named(found, "linear").name, list(range(6))
    gate = Gate(value, -1, torch.tensor(groups), batch=1)
    information = gate_information(found, {0: gate}, batch, seed=3)[0]
    expected = by_hand(found, value, -1, groups, batch, 3).square().mean(0)
    torch.testing.assert_close(information, expected, rtol=1e-3, atol=1e-9)


def test_what_all_images_share_is_weighed_by_the_sum_of_their_likelihoods():
    class Shared(Learned):
        def forward(self, image):
            query = self.query(self.widen(self.tokens).relu()) + 0 * image.mean()
            seen = self.embed(image).flatten(2).transpose(1, 2)
            return self.head((query @ seen.transpose(1, 2)).softmax(-1).matmul(seen).mean(1))

    found, batch = program(Shared), images(640)
    name = named(found, "add").name
    gate = Gate(name, -1, torch.arange(8), batch=None)
    shared = gate_information(found, {"": gate}, batch, seed=0)[""]
    each = by_hand(found, name, -1, list(range(8)), batch[:160], 0).square().mean(0)
    assert float(shared.sum()) == pytest.approx(float(each.sum()), rel=0.5)


@pytest.mark.parametrize(
    ("module", "operator", "place"), [(Net, "conv2d", 1), (Attention, "linear", -1), (Folded, "linear", -1)]
)
def test_the_information_of_channels_is_the_sum_of_squared_gradients(module, operator, place):
    found, batch = program(module), images(20)
    name = named(found, operator).name
    classes, runner = drawn_classes(found, batch, 5), Runner(found)
    target, expected = runner.nodes[name].target, 0.0
    for image, label in zip(batch, classes, strict=True):

        def likelihood(error, image=image, label=label):
            override = {name: lambda *args, **kwargs: target(*args, **kwargs) + error}
            logits = runner.run({runner.image: image[None]}, runner.results[:1], overrides=override)
            return logits[runner.results[0]].log_softmax(-1)[0, label]

        with torch.no_grad():
            shape = runner.run({runner.image: image[None]}, [name])[name].shape
        gradient = grad(likelihood)(torch.zeros(shape)).double()
        expected = expected + gradient.movedim(place, 0).flatten(1).square().sum(1) / len(batch)
    information = channel_information(found, {name: place}, batch, seed=5)[name]
    torch.testing.assert_close(information, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("module", "operator"), [(Attention, "linear"), (Net, "conv2d")])
def test_half_the_information_is_the_divergence_of_a_slight_scaling(module, operator):
    found, batch = program(module), images(1500)
    node = named(found, operator)
    place = 1 if operator == "conv2d" else -1
    size = node.meta["val"].shape[place]
    gate = Gate(node.name, place, torch.arange(size))
    information = gate_information(found, {"": gate}, batch, seed=0)[""]
    with torch.no_grad():
        whole = scaled(found, node.name, torch.ones(size), place, batch).double().log_softmax(-1)
        for unit in information.topk(3).indices.tolist():
            factors = torch.ones(size)
            factors[unit] = 0.95
            other = scaled(found, node.name, factors, place, batch).double().log_softmax(-1)
            divergence = float((whole.exp() * (whole - other)).sum(-1).mean())
            assert divergence == pytest.approx(float(information[unit]) / 2 * 0.05**2, rel=0.2)


def test_the_same_seed_gives_the_same_numbers():
    found = program(Attention)
    name = named(found, "linear").name
    first, again, other = (
        channel_information(found, {name: -1}, images(16), seed=seed)[name] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_the_logits_do_not_depend_on_is_missing_or_zero():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.aside = nn.Linear(3, 4), nn.Linear(3, 7)

        def forward(self, image):
            return self.head(image.mean((2, 3))), self.aside(image.mean((2, 3)))

    exported = export_module(Two().eval(), images(2), dynamic_batch=True)
    found = Program(exported, CARD.model_copy(update={"outputs": ("logits", "aside")}))
    name = str(exported.graph_signature.user_outputs[1])
    assert channel_information(found, {name: -1}, images(8), seed=0) == {}
    gate = Gate(name, -1, torch.arange(7))
    assert gate_information(found, {"": gate}, images(8), seed=0)[""].tolist() == [0.0] * 7
