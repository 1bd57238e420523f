import pytest
from torch import nn

from edgevit.graph.rewrites.resize_to_matmul import resize_to_matmul
from tests.rewrites.helpers import check_refusal, check_rewrite, operators


@pytest.mark.parametrize(
    "options",
    [
        {"size": (7, 5)},
        {"size": (7, 5), "align_corners": True},
        {"size": (20, 3)},
        {"scale_factor": 1.3},
        {"scale_factor": (0.6, 2.0)},
        {"scale_factor": 1.3, "recompute_scale_factor": True},
    ],
    ids=str,
)
def test_a_bicubic_resize_is_two_products(options):
    rewritten = check_rewrite(
        resize_to_matmul,
        lambda x: nn.functional.interpolate(x, mode="bicubic", **options),
        (3, 9, 11),
        tolerance=2e-6,
    )
    assert operators(rewritten) == {"matmul": 2}


def test_another_resize_is_left_alone():
    check_refusal(
        resize_to_matmul, lambda x: nn.functional.interpolate(x, (7, 5), mode="bilinear"), (3, 9, 11)
    )
