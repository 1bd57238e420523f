import pytest
import torch
from torch import nn

from edgevit.graph.rewrites import matmul_to_linear
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


class Weighted(nn.Module):
    """SwiftFormer's: one number for each token."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight).softmax(1)


@pytest.mark.parametrize("shape", [(6, 1), (6, 5)])
def test_a_product_with_a_parameter_is_a_layer(shape):
    rewritten = check_rewrite(matmul_to_linear, Weighted(*shape), (4, 6), tolerance=1e-6)
    assert operators(rewritten) == {"linear": 1, "softmax": 1}
    assert [tuple(value.shape) for value in rewritten.exported.state_dict.values()] == [shape[::-1]]
    assert all(isinstance(value, nn.Parameter) for value in rewritten.exported.state_dict.values())


def test_a_matrix_that_two_products_read_is_stored_for_each():
    class Twice(Weighted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight + x.relu() @ self.weight

    rewritten = check_rewrite(matmul_to_linear, Twice(6, 5), (4, 6), tolerance=1e-6)
    assert operators(rewritten) == {"relu": 1, "linear": 2, "add": 1}


@pytest.mark.parametrize("shape", [(6,), (3, 6, 5)], ids=["a vector", "one matrix for each head"])
def test_products_that_are_no_layer_stay(shape):
    check_refusal(matmul_to_linear, Weighted(*shape), (3, 4, 6))


def test_products_of_two_activations_stay():
    check_refusal(matmul_to_linear, lambda x: x @ x.transpose(1, 2), (4, 6))
    check_refusal(matmul_to_linear, lambda x: torch.ones(5, 4) @ x, (4, 6))
