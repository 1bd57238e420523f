import torch
from torch import nn

from edgevit.quant.levels import groups
from edgevit.quant.observation import observe
from edgevit.quant.placing import place
from edgevit.quant.precision import bit_widths
from edgevit.quant.presteps import Prepared, prestep
from tests.quant.helpers import all_named, images, logits, named, prepared, seeded
from tests.rewrites.helpers import operators


class Mlp(nn.Module):
    """A convolution to unlike channels, and a feed-forward branch of unlike channels on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.expand, self.project = nn.Linear(8, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.stem.weight[1:] *= 0.01
            self.stem.bias[1:] *= 0.01
            self.expand.weight[0] *= 30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        return self.project(nn.functional.gelu(self.expand(tokens))).mean(1)


def stepped(placement: str, damage: float) -> tuple[object, Prepared]:
    program = prepared(seeded(Mlp))
    levels = place(program.graph, placement, bit_widths("w8a8"))
    names = [name for group in groups(program.graph, levels) for name in group.values]
    found = prestep(
        program,
        levels,
        observed=observe(program, images(), names),
        damage=dict.fromkeys((node.name for node in program.graph.nodes), damage),
        images=images(),
        bits=bit_widths("w8a8"),
        scheme="auto",
    )
    return program, found


def test_the_program_computes_the_same():
    for placement in ("inputs", "layers"):
        program, found = stepped(placement, damage=1.0)
        assert found.program is not program
        torch.testing.assert_close(logits(found.program), logits(program), rtol=1e-4, atol=1e-5)


def test_what_a_layer_norm_gives_is_smoothed_without_an_operator_more():
    program, found = stepped("inputs", damage=0.0)
    assert found.smoothed == (all_named(program, "linear")[0].name,)
    assert operators(found.program) == operators(program)


def test_another_input_is_smoothed_by_a_product_where_the_layer_does_damage():
    program, found = stepped("inputs", damage=1.0)
    assert found.smoothed == tuple(node.name for node in all_named(program, "linear"))
    assert operators(found.program)["mul"] == operators(program)["mul"] + 1


def test_an_output_of_unlike_channels_is_equalized_where_the_layer_does_damage():
    program, found = stepped("layers", damage=1.0)
    assert named(program, "conv2d").name in found.equalized
    assert stepped("layers", damage=0.0)[1].equalized == ()


def test_what_moved_an_equalized_output_moves_no_integers():
    program, found = stepped("layers", damage=1.0)
    moves = {named(program, "flatten").name, named(program, "transpose").name}
    assert moves.isdisjoint(found.levels)


def test_tokens_in_a_grid_are_smoothed_only_where_their_channels_are_known_to_be_last():
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.mix(x.permute(0, 2, 3, 1)))).mean((1, 2))

    program = prepared(seeded(Grid))
    levels = place(program.graph, "inputs", bit_widths("w8a8"))
    names = [name for group in groups(program.graph, levels) for name in group.values]
    found = prestep(
        program,
        levels,
        observed=observe(program, images(), names),
        damage=dict.fromkeys(levels, 1.0),
        images=images(),
        bits=bit_widths("w8a8"),
        scheme="auto",
    )
    assert found.smoothed == (all_named(program, "linear")[1].name,)
    torch.testing.assert_close(logits(found.program), logits(program), rtol=1e-4, atol=1e-5)
