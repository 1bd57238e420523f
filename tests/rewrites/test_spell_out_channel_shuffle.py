import pytest
from torch import nn

from edgevit.graph.rewrites.spell_out_channel_shuffle import spell_out_channel_shuffle
from tests.rewrites.helpers import check_rewrite, operators


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_shuffle_moves_axes(groups):
    rewritten = check_rewrite(spell_out_channel_shuffle, nn.ChannelShuffle(groups), (6, 4, 5))
    assert operators(rewritten) == {"reshape": 2, "permute": 1}
