import pytest
import torch
from torch import nn

from edgevit.graph.rewrites import fold_constants
from edgevit.graph.rewrites.drop_no_ops import drop_no_ops
from tests.rewrites.helpers import assert_same_function, check_refusal, check_rewrite, operators, program_of


class BiasTable(nn.Module):
    """A relative position bias, gathered from a table as Swin does."""

    def __init__(self, tokens: int = 4) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * tokens - 1, 2))
        offsets = torch.arange(tokens)[:, None] - torch.arange(tokens) + tokens - 1
        self.register_buffer("offsets", offsets, persistent=False)
        self.tokens = tokens

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        bias = self.table[self.offsets.view(-1)].view(self.tokens, self.tokens, -1).permute(2, 0, 1)
        return scores + bias.contiguous().unsqueeze(0)


def test_a_position_bias_gathered_from_a_table_becomes_a_buffer():
    rewritten = check_rewrite(fold_constants, BiasTable(), (2, 4, 4), tolerance=0)
    assert operators(rewritten) == {"add": 1}
    assert {name: tuple(v.shape) for name, v in rewritten.exported.state_dict.items()} == {
        "table_folded": (1, 2, 4, 4)
    }


def test_a_position_embedding_resized_to_the_grid_becomes_a_buffer():
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.randn(1, 4, 4, 4))

        def forward(self, image):
            grown = nn.functional.interpolate(self.positions, size=(6, 6), mode="bicubic")
            return image + grown

    rewritten = check_rewrite(fold_constants, Resized(), (4, 6, 6), tolerance=0)
    assert operators(rewritten) == {"add": 1}


def test_a_mask_made_of_numbers_becomes_a_buffer():
    def causal(scores: torch.Tensor) -> torch.Tensor:
        places = torch.arange(4)
        mask = (places[:, None] < places).float() * -100.0
        return (scores + mask).softmax(dim=-1)

    rewritten = drop_no_ops(check_rewrite(fold_constants, causal, (4, 4), tolerance=0))
    assert operators(rewritten) == {"add": 1, "softmax": 1}
    assert len(rewritten.exported.state_dict) == 1


def test_a_constant_read_twice_is_stored_once():
    def twice(x: torch.Tensor) -> torch.Tensor:
        ramp = torch.arange(4).float()
        return (x + ramp) * ramp

    rewritten = fold_constants(drop_no_ops(program_of(twice, (4,))))
    assert len(rewritten.exported.state_dict) == 1


def test_what_is_stored_survives_saving_and_loading(tmp_path):
    rewritten = fold_constants(program_of(BiasTable(), (2, 4, 4)))
    rewritten.save(tmp_path / "folded.pt2")
    loaded = type(rewritten).load(tmp_path / "folded.pt2")
    scores = torch.randn(3, 2, 4, 4)
    assert torch.equal(loaded.module(scores), rewritten.module(scores))
    assert fold_constants(loaded) is loaded


def test_what_depends_on_the_batch_is_left_alone():
    check_refusal(fold_constants, lambda x: x + torch.arange(x.shape[0])[:, None].float(), (4,))


def test_expanding_a_token_over_the_batch_is_left_alone():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x):
            return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)

    check_refusal(fold_constants, Token(), (3, 4))


def test_places_counted_in_every_image_become_one_buffer_that_is_copied():
    """EdgeNeXt's position encoding: a convolution of sines of what is counted for each image."""

    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Conv2d(2, 3, 1)

        def forward(self, image):
            batch, _, height, width = image.shape
            places = (~torch.zeros(batch, height, width).bool()).cumsum(1, dtype=torch.float32)
            encoded = torch.stack((places.sin(), places.cos()), dim=1)
            return torch.cat([image, self.project(encoded)], dim=1)

    program = drop_no_ops(program_of(Encoded(), (3, 4, 5)))
    rewritten = fold_constants(program)
    assert_same_function(rewritten, program)
    assert operators(rewritten) == {"cat": 1, "expand": 1, "sym_size": 1}
    assert {tuple(value.shape) for value in rewritten.exported.state_dict.values()} == {(1, 3, 4, 5)}
    assert fold_constants(rewritten) is rewritten


def test_a_mask_that_every_image_has_may_hold_infinity():
    def masked(scores: torch.Tensor) -> torch.Tensor:
        mask = torch.full((scores.shape[0], 4, 4), float("-inf")).triu(1)
        return (scores + mask).softmax(-1)

    rewritten = check_rewrite(fold_constants, masked, (4, 4), tolerance=0)
    assert operators(rewritten) == {"add": 1, "softmax": 1, "expand": 1, "sym_size": 1}


def test_layers_of_a_token_that_every_image_has_are_computed_once():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.randn(1, 2, 4)), nn.Linear(4, 4)

        def forward(self, x):
            token = self.token.expand(x.shape[0], -1, -1)
            return torch.cat([token, self.layer(token).softmax(-1), x], dim=1)

    rewritten = check_rewrite(fold_constants, Token(), (3, 4), tolerance=1e-6)
    assert operators(rewritten) == {"cat": 1, "expand": 2, "sym_size": 1}
    assert sorted(rewritten.exported.state_dict) == ["token", "token_folded"]


@pytest.mark.parametrize(
    "differing",
    [
        lambda x: x + torch.arange(x.shape[0]).cumsum(0)[:, None],
        lambda x: x * torch.ones(x.shape[0], 4).sum(),
        lambda x: x.reshape(-1) + torch.ones(x.shape[0] * 4),
    ],
    ids=["from image to image", "from batch to batch", "in the number of rows"],
)
def test_what_differs_stays(differing):
    program = drop_no_ops(program_of(differing, (4,)))
    found = fold_constants(program)
    assert_same_function(found, program)
    assert operators(found).keys() >= {"sym_size"}


def test_a_table_is_looked_up_once_and_copied_for_the_batch():
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 4))
            self.register_buffer("places", torch.tensor([1, 1, 3]), persistent=False)

        def forward(self, x):
            rows = self.table[self.places].unsqueeze(0)
            return torch.cat([rows.expand(x.shape[0], -1, -1), x], dim=1)

    rewritten = check_rewrite(fold_constants, Looked(), (3, 4), tolerance=0)
    assert operators(rewritten) == {"cat": 1, "expand": 1, "sym_size": 1}


def test_an_expand_to_a_fixed_size_is_not_worth_storing():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 4))

        def forward(self, x):
            return x @ self.token.expand(64, 4).t()

    check_refusal(fold_constants, Token(), (3, 4))


def test_chance_is_left_alone():
    check_refusal(fold_constants, lambda x: x + torch.rand(4), (4,))


def test_a_tensor_that_is_written_to_in_place_is_left_alone():
    def written(x: torch.Tensor) -> torch.Tensor:
        board = torch.zeros(4)
        board.view(2, 2).add_(1.0)
        return x + board

    check_refusal(fold_constants, written, (4,))


def test_an_ordinary_layer_has_nothing_to_fold():
    check_refusal(fold_constants, nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,))


class Outer(nn.Module):
    """Two products of small vectors that are large (256 bytes and 1 KiB)."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small, large = (vector[:, None] * vector for vector in (self.small, self.large))
        return (x @ small).sum(dim=1, keepdim=True) + large.flatten()


def test_folding_stops_at_the_growth_allowed_and_stays_there():
    limit = 300

    def fold(program):
        return fold_constants(program, max_growth=limit)

    fold.__name__ = "fold_constants"
    rewritten = check_rewrite(fold, Outer(), (8,))
    stored = {name: value.numel() for name, value in rewritten.exported.state_dict.items()}
    assert stored == {"small_folded": 64, "large": 16}
    assert rewritten.card.steps[-1].measured["growth_bytes"] == 4 * (64 - 8)


def test_no_growth_allowed_still_folds_what_shrinks():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4))

        def forward(self, x):
            return x * self.weight.mean(dim=0)

    rewritten = fold_constants(program_of(Averaged(), (4,)), max_growth=0)
    assert set(rewritten.exported.state_dict) == {"weight_folded"}
