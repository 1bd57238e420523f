"""SiLU as two operations that integer runtimes know."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.quant.levels import Level
from edgevit.quant.silu import spell_out_silu
from tests.quant.helpers import all_named, logits, prepared, seeded

INTEGER = Level.INTEGER


class TwoSilus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = nn.functional.silu(self.first(image))
        return nn.functional.silu(self.second(made)).mean((2, 3))


PROGRAM = prepared(seeded(TwoSilus))
FIRST, SECOND = (node.name for node in all_named(PROGRAM, "silu"))


def test_a_silu_becomes_a_sigmoid_and_a_product_under_names_that_follow_from_its_own():
    found, levels = spell_out_silu(PROGRAM, {FIRST: INTEGER, SECOND: INTEGER})
    assert all_named(found, "silu") == []
    assert [node.name for node in all_named(found, "mul")] == [FIRST, SECOND]
    assert [node.name for node in all_named(found, "sigmoid")] == [f"{FIRST}_sigmoid", f"{SECOND}_sigmoid"]
    assert levels == dict.fromkeys([FIRST, SECOND, f"{FIRST}_sigmoid", f"{SECOND}_sigmoid"], INTEGER)
    torch.testing.assert_close(logits(found), logits(PROGRAM))


def test_a_float_silu_stays_one():
    found, levels = spell_out_silu(PROGRAM, {SECOND: INTEGER})
    assert [node.name for node in all_named(found, "silu")] == [FIRST]
    assert set(levels) == {SECOND, f"{SECOND}_sigmoid"}
    assert len(all_named(PROGRAM, "silu")) == 2


def test_a_graph_without_a_silu_in_integers_is_left_alone():
    found, levels = spell_out_silu(PROGRAM, {"conv2d": INTEGER})
    assert found is PROGRAM
    assert levels == {"conv2d": INTEGER}
