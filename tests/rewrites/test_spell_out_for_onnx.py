import torch
from torch import nn

from edgevit.graph.rewrites.spell_out_for_onnx import spell_out_for_onnx
from tests.rewrites.helpers import check_refusal, check_rewrite, operators, program_of


class Pooled(nn.Module):
    def __init__(self, cells: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(cells)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.pool(image).flatten(1)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                value.normal_()
            self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(image).relu()


def test_a_pool_to_one_cell_becomes_a_mean():
    rewritten = check_rewrite(spell_out_for_onnx, Pooled(1), (3, 5, 4), tolerance=1e-6)
    assert operators(rewritten)["mean"] == 1
    assert operators(rewritten)["adaptive_avg_pool2d"] == 0


def test_a_pool_of_tokens_becomes_a_mean():
    def pooled(tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool1d(tokens, 1)

    assert operators(check_rewrite(spell_out_for_onnx, pooled, (3, 5), tolerance=1e-6))["mean"] == 1


def test_a_pool_to_several_cells_is_left_alone():
    check_refusal(spell_out_for_onnx, Pooled(2), (3, 4, 4))


def test_a_batch_norm_is_written_without_training():
    rewritten = check_rewrite(spell_out_for_onnx, Normalised(), (3, 4, 4), tolerance=1e-6)
    assert operators(rewritten)["batch_norm"] == 0


def test_a_batch_norm_in_training_mode_is_left_alone():
    def trained(image: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(image, torch.zeros(3), torch.ones(3), training=True)

    program = program_of(trained, (3, 4, 4))
    assert spell_out_for_onnx(program) is program
