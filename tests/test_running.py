"""Running any part of a graph gives what running all of it gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.graph.running import BATCH, Runner, batches, spread
from tests.quant.helpers import Folded, Net, Tokens, images, logits, named, prepared, seeded

PROGRAMS = {model: prepared(seeded(model)) for model in (Net, Tokens, Folded)}
IMAGES = images(3)


def computed(program):
    """Every computed value, and the image."""
    runner = Runner(program)
    names = [name for name, node in runner.nodes.items() if node.op == "call_function"]
    with torch.no_grad():
        return runner.run({runner.image: IMAGES}, names) | {runner.image: IMAGES}


VALUES = {model: computed(program) for model, program in PROGRAMS.items()}


@pytest.mark.parametrize("model", PROGRAMS)
def test_the_results_are_the_programs(model):
    runner = Runner(PROGRAMS[model])
    with torch.no_grad():
        found = runner.run({runner.image: IMAGES}, runner.results)
    # Kernels may sum in another order where memory lies otherwise.
    torch.testing.assert_close(
        found[runner.results[0]], logits(PROGRAMS[model], IMAGES), atol=1e-6, rtol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(PROGRAMS)), st.data())
def test_running_from_any_cut_gives_what_running_everything_gives(model, data):
    runner, everything = Runner(PROGRAMS[model]), VALUES[model]
    names = [name for name in everything if name != runner.image]
    known = set(data.draw(st.lists(st.sampled_from(names)))) | {runner.image}
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    with torch.no_grad():
        found = runner.run({name: everything[name] for name in known}, wanted)
    assert list(found) == wanted
    for name in wanted:
        whole = everything[name]
        pairs = (
            zip(found[name], whole, strict=True)
            if isinstance(whole, tuple | list)
            else [(found[name], whole)]
        )
        assert all(
            torch.equal(left, right) if torch.is_tensor(left) else left == right for left, right in pairs
        )


def test_what_leads_to_a_given_value_is_not_computed():
    program = PROGRAMS[Net]
    runner = Runner(program)

    def never(*_):
        raise AssertionError("computed")

    relu, stem = named(program, "relu").name, named(program, "conv2d").name
    given_values = {relu: VALUES[Net][relu], runner.image: IMAGES}
    found = runner.run(given_values, runner.results, overrides={stem: never})
    assert torch.equal(found[runner.results[0]], logits(program, IMAGES))


def test_an_override_stands_for_its_operator():
    program = PROGRAMS[Net]
    runner = Runner(program)
    relu = named(program, "relu").name
    found = runner.run({runner.image: IMAGES}, [relu], overrides={relu: lambda value: value - 1})
    stem = named(program, "conv2d").name
    assert torch.equal(found[relu], VALUES[Net][stem] - 1)


def test_given_values_are_left_as_they_are():
    runner = Runner(PROGRAMS[Net])
    known = {runner.image: IMAGES}
    runner.run(known, runner.results)
    assert list(known) == [runner.image]


def test_each_named_value_is_shown_once_constants_and_image_too():
    program = prepared(seeded(Tokens))
    runner = Runner(program)
    constant = next(iter(runner.constants))
    names = [runner.image, constant, named(program, "softmax").name]
    seen: dict[str, torch.Tensor] = {}

    def look(name, value):
        assert name not in seen
        seen[name] = value

    runner.observe(IMAGES, names, look)
    assert seen.keys() == set(names)
    assert torch.equal(seen[runner.image], IMAGES)
    assert torch.equal(seen[constant], runner.constants[constant])
    assert torch.equal(seen[names[2]], VALUES[Tokens][names[2]])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100), st.integers(1, 40))
def test_batches_are_all_images_in_order(count, size):
    parts = list(batches(torch.arange(count), size))
    assert torch.cat(parts).tolist() == list(range(count))
    assert max(map(len, parts)) <= size


def test_batches_are_bounded_unless_told():
    assert max(len(part) for part in batches(torch.zeros(100, 1))) == BATCH


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.integers(1, 100))
def test_some_of_the_images_come_from_all_over(count, wanted):
    numbers = spread(torch.arange(count), wanted)
    assert len(numbers) == min(count, wanted)
    gaps = numbers.diff().unique()
    assert (gaps > 0).all()
    assert gaps.numel() <= 1 or gaps.max() - gaps.min() == 1
    assert numbers[0] == 0
    assert count - numbers[-1] <= count / len(numbers) + 1
