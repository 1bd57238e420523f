"""A Program without a residual block computes what the whole one does with the branch's result zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import stored_tensors
from edgevit.graph.program import Program
from edgevit.graph.residual import ResidualBlock, drop_block, residual_blocks
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.running import Runner
from tests import zoo
from tests.conformance import CONVERTERS, try_program
from tests.rewrites.helpers import program_of
from tests.test_slicing import SIZED, images_of, logits, models, prepared


def without_result(program: Program, block: ResidualBlock, images: torch.Tensor) -> torch.Tensor:
    runner, result = Runner(program), block.nodes[-1]
    target = runner.nodes[result].target

    def zero(*args, **kwargs):
        return torch.zeros_like(target(*args, **kwargs))

    with torch.no_grad():
        found = runner.run({runner.image: images}, runner.results[:1], overrides={result: zero})
    return found[runner.results[0]]


def numbers_stored(program: Program) -> int:
    return sum(value.numel() for node, _, value in stored_tensors(program) if node.users)


def check_block(program: Program, block: ResidualBlock, images: torch.Tensor) -> torch.Tensor:
    found = drop_block(program, block)
    expected = without_result(program, block, images)
    torch.testing.assert_close(
        logits(found, images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )
    assert numbers_stored(program) - numbers_stored(found) == block.parameters
    assert not set(block.nodes) & {node.name for node in found.graph.nodes}
    return expected


@pytest.mark.parametrize("name", models(("mobilevit_xxs",)))
def test_without_a_block_the_rest_is_the_whole_with_its_result_zero(name):
    program = prepared(name)
    images, blocks = images_of(program), residual_blocks(program)
    whole = logits(program, images)
    assert len({block.name for block in blocks}) == len(blocks) > 0
    for block in blocks:
        expected = check_block(program, block, images)
        assert not torch.equal(expected, whole), f"{block.name} does nothing"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deit_tiny", 24),
        ("hf_levit", 8),
        pytest.param("levit_128s", 20, marks=pytest.mark.slow),
        pytest.param("swin_tiny", 24, marks=pytest.mark.slow),
        # Two of convolutions, ten of attention, whose inputs are views of what they are added to, ten MLPs.
        pytest.param("tiny_vit_5m", 22, marks=pytest.mark.slow),
    ],
)
def test_all_blocks_of_a_model_are_found(name, count):
    assert len(residual_blocks(prepared(name))) == count


def test_blocks_are_named_after_their_layers_module():
    found = [block.name for block in residual_blocks(prepared("deit_tiny"))]
    assert found == [f"blocks.{index}.{part}" for index in range(12) for part in ("attn", "mlp")]


def test_blocks_can_be_dropped_one_after_the_other():
    program = prepared("mobilevit_xxs")
    for name in ("stages.2.1.transformer.0.attn", "stages.2.1.transformer.0.mlp", "stages.1.1"):
        program = drop_block(program, named(program)[name])
    assert len(residual_blocks(program)) == len(residual_blocks(prepared("mobilevit_xxs"))) - 3
    assert [step.name for step in program.card.steps[-3:]] == ["drop_block"] * 3


def test_what_a_block_was_dropped_from_can_be_saved_and_loaded(tmp_path):
    program = prepared("mobilevit_xxs")
    small = drop_block(program, residual_blocks(program)[0])
    loaded = Program.load(small.save(tmp_path / "small.pt2"))
    images = images_of(program)
    torch.testing.assert_close(logits(loaded, images), logits(small, images))
    assert residual_blocks(loaded) == residual_blocks(small)


def test_what_a_block_was_dropped_from_exports_to_onnx(tiny_program):
    pytest.importorskip(CONVERTERS["onnx"])
    program = prepare_for_export(tiny_program)
    (block,) = residual_blocks(program)
    cell = try_program(drop_block(program, block), "onnx", "fp32")
    assert cell.passed, cell.refusal or f"differs by {cell.rel:.1e}"


class Tokens(nn.Module):
    """(batch, 3, 8, 8) images as (batch, 4, 6) tokens, then what a test makes of them."""

    def __init__(self, after) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.scale, self.position = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(1, 4, 6))
        self.after = after

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(image).flatten(2).transpose(1, 2)
        return self.head(self.after(self, tokens).mean(1))


def tiny(after) -> Program:
    torch.manual_seed(0)
    return prepare_for_export(program_of(Tokens(after), SIZED))


def named(program: Program) -> dict[str, ResidualBlock]:
    return {block.name: block for block in residual_blocks(program)}


def gated(parts, x):
    return x + torch.sigmoid(parts.second(x)) * parts.first(parts.norm(x))


def another_view(parts, x):
    whole, halves = x.reshape(-1, 24), x.reshape(-1, 2, 2, 6)
    return (whole + parts.first(halves).reshape(-1, 24)).reshape(-1, 4, 6)


def attended(parts, x):
    heads = x.unsqueeze(1)
    return x + parts.first(nn.functional.scaled_dot_product_attention(heads, heads, heads).squeeze(1))


LAYER, NORM = 6 * 6 + 6, 6 + 6
# By what is in the branch: its name, and how many numbers it alone reads.
BRANCHES = {
    "a layer": (lambda parts, x: x + parts.first(x), "first", LAYER),
    "a layer to the left": (lambda parts, x: parts.first(x) + x, "first", LAYER),
    "a norm and a scale": (
        lambda parts, x: x + parts.scale * parts.first(parts.norm(x)),
        "first",
        LAYER + NORM + 6,
    ),
    "an attention": (attended, "first", LAYER),
    "a gate": (gated, "linear", 2 * LAYER + NORM),
    "a path that is never dropped": (
        lambda parts, x: x + nn.functional.dropout(parts.first(x), 0.5, training=False),
        "first",
        LAYER,
    ),
    "a constant": (lambda parts, x: x + parts.first(x) * parts.position, "first", LAYER + 24),
    "another view of the skip": (another_view, "first", LAYER),
    "no layer": (lambda parts, x: x + x.roll(1, 1), "roll", 0),
}


@pytest.mark.parametrize("content", BRANCHES)
def test_a_branch_and_all_that_it_alone_reads(content):
    after, name, numbers = BRANCHES[content]
    program = tiny(after)
    (block,) = residual_blocks(program)
    assert (block.name, block.parameters) == (name, numbers)
    check_block(program, block, zoo.example(SIZED))


def read_elsewhere(parts, x):
    branch = parts.first(x)
    return (x + branch) * branch.sigmoid()


def read_elsewhere_on_its_way(parts, x):
    normal = parts.norm(x)
    return (x + parts.first(normal)) * parts.second(normal)


NO_BRANCHES = {
    "two parallel branches": lambda parts, x: parts.first(x) + parts.second(x),
    "a positional embedding": lambda parts, x: x + parts.position,
    "a branch that is read elsewhere": read_elsewhere,
    "a branch whose norm is read elsewhere": read_elsewhere_on_its_way,
    "a value of another shape": lambda parts, x: x + parts.first(x.mean(1, keepdim=True)),
    "a value added to itself": lambda parts, x: x + x,
    "a multiple": lambda parts, x: torch.add(x, parts.first(x), alpha=2),
    "whole numbers": lambda parts, x: x * ((x > 0).long() + (x > 0).long().cumsum(1)),
}


@pytest.mark.parametrize("content", NO_BRANCHES)
def test_an_addition_that_is_no_residual(content):
    assert not residual_blocks(tiny(NO_BRANCHES[content]))


def test_of_two_branches_of_one_value_the_first_that_is_added_to_it_goes():
    program = tiny(lambda parts, x: x + parts.first(x) + parts.second(x))
    assert [block.name for block in residual_blocks(program)] == ["first"]


def nested(parts, x):
    inner = parts.first(x)
    inner = inner + parts.second(inner.relu())
    return x + parts.norm(inner)


def test_a_branch_inside_a_branch_is_one_of_its_own():
    program = tiny(nested)
    inner, outer = residual_blocks(program)
    assert (inner.name, outer.name) == ("second", "linear")
    assert set(inner.nodes) < set(outer.nodes)
    assert (inner.parameters, outer.parameters) == (LAYER, 2 * LAYER + NORM)
    for block in (inner, outer):
        check_block(program, block, zoo.example(SIZED))


def test_a_layer_that_something_else_reads_as_well_stays_stored():
    program = tiny(lambda parts, x: parts.first(x + parts.first(parts.norm(x))))
    (block,) = residual_blocks(program)
    assert block.parameters == NORM
    check_block(program, block, zoo.example(SIZED))


def test_blocks_of_one_module_are_numbered():
    def twice(parts, x):
        x = x + parts.first(x)
        return x + parts.first(x)

    assert list(named(tiny(twice))) == ["first", "first#2"]


def test_the_original_stays_as_it_is():
    program = tiny(lambda parts, x: x + parts.first(x))
    graph, stored = str(program.graph), numbers_stored(program)
    drop_block(program, residual_blocks(program)[0])
    assert (str(program.graph), numbers_stored(program)) == (graph, stored)


def test_a_block_of_another_program_is_refused():
    program = tiny(lambda parts, x: x + parts.first(x))
    (block,) = residual_blocks(program)
    with pytest.raises(EdgevitError, match="first: is no residual block of model"):
        drop_block(drop_block(program, block), block)
