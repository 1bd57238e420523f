import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from edgevit.export.onnx import OnnxArtefact, to_onnx
from edgevit.graph.rewrites import attention_rank
from tests.rewrites.helpers import check_refusal, check_rewrite, operators, program_of
from tests.zoo import example

TOKENS, WIDTH = 6, 4


def one_head(x: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(x, x * 0.5, x + 1)


def with_a_shared_mask(x: torch.Tensor) -> torch.Tensor:
    mask = torch.arange(TOKENS).reshape(1, -1) * torch.ones(TOKENS, 1)
    return scaled_dot_product_attention(x, x, x, attn_mask=mask)


def with_a_mask_of_each_image(x: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(x, x, x, attn_mask=x.sum(2, keepdim=True) - x[:, :, 0].unsqueeze(1))


def with_a_boolean_mask_of_each_image(x: torch.Tensor) -> torch.Tensor:
    mask = (x[:, :, :1] > 0) | torch.eye(TOKENS, dtype=torch.bool)
    return scaled_dot_product_attention(x, x, x, attn_mask=mask)


def causal_with_a_scale(x: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3)


def over_fewer_keys(x: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(x, x[:, :3], x[:, :3, :2])


CASES = [
    one_head,
    with_a_shared_mask,
    with_a_mask_of_each_image,
    with_a_boolean_mask_of_each_image,
    causal_with_a_scale,
    over_fewer_keys,
]


@pytest.mark.parametrize("attend", CASES)
def test_attention_of_three_axes_becomes_one_head(attend):
    rewritten = check_rewrite(attention_rank, attend, (TOKENS, WIDTH), tolerance=1e-6)
    (call,) = (node for node in rewritten.graph.nodes if "scaled_dot_product" in str(node.target))
    assert {node.meta["val"].ndim for node in call.args[:3]} == {4}
    assert call.meta["val"].ndim == 4


def test_a_shared_mask_needs_no_head_axis():
    rewritten = check_rewrite(attention_rank, with_a_shared_mask, (TOKENS, WIDTH))
    assert operators(rewritten)["unsqueeze"] == 3


def test_heads_are_left_alone():
    check_refusal(attention_rank, lambda x: scaled_dot_product_attention(x, x, x), (2, TOKENS, WIDTH))


def test_inputs_of_different_ranks_are_left_alone():
    check_refusal(attention_rank, lambda x: scaled_dot_product_attention(x, x[0], x[0]), (TOKENS, WIDTH))


@pytest.mark.parametrize("attend", [one_head, with_a_mask_of_each_image, with_a_boolean_mask_of_each_image])
def test_it_can_then_be_written_as_onnx(attend, tmp_path):
    pytest.importorskip("onnxscript")

    def classify(image: torch.Tensor) -> torch.Tensor:
        return attend(image.flatten(2)).mean(2)

    program = program_of(classify, (TOKENS, 2, 2))
    to_onnx(program, tmp_path / "a.onnx", batch="dynamic")
    images = example((TOKENS, 2, 2), 3).numpy()
    actual = OnnxArtefact.open(tmp_path / "a.onnx").run(images)[0]
    np.testing.assert_allclose(actual, program.run(images)[0], rtol=1e-5, atol=1e-6)
