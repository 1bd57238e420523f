"""Gradients of drawn classes are those of the predictions' own log-likelihoods."""

from __future__ import annotations

import torch

from edgevit.graph.information import backward
from edgevit.graph.running import Runner
from tests.pruning.nets import Attention, Learned, program
from tests.quant.helpers import all_named, images, named


def shown(found, names, batch, *, seed=0):
    """What is shown, batch by batch."""
    parts = []
    backward(Runner(found), names, batch, lambda count, values: parts.append((count, values)), seed=seed)
    return parts


def test_the_gradient_of_the_logits_is_what_is_drawn_less_what_is_expected():
    found = program(Attention)
    result = Runner(found).results[0]
    ((count, values),) = shown(found, [result], images(9))
    logits, gradient = values[result]
    drawn = gradient + logits.softmax(-1)
    assert count == 9
    torch.testing.assert_close(drawn.max(-1).values, torch.ones(9))
    torch.testing.assert_close(drawn.sum(-1), torch.ones(9))


def test_images_come_in_batches_and_each_once():
    found = program(Attention)
    name = named(found, "conv2d").name
    parts = shown(found, [name], images(37))
    assert [count for count, _ in parts] == [16, 16, 5]
    runner = Runner(found)
    with torch.no_grad():
        whole = runner.run({runner.image: images(37)}, [name])[name]
    torch.testing.assert_close(torch.cat([values[name][0] for _, values in parts]), whole)


def test_the_same_seed_draws_the_same_classes():
    found = program(Attention)
    result = Runner(found).results[0]
    first, again, other = (
        shown(found, [result], images(16), seed=seed)[0][1][result][1] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_does_not_come_of_the_image_has_a_gradient_too():
    found = program(Learned)
    names = [node.name for node in all_named(found, "linear")]
    ((_, values),) = shown(found, names, images(4))
    assert set(values) == set(names)
    assert all(bool(gradient.abs().sum() > 0) for _, gradient in values.values())
