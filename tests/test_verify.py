"""Verification: what is compared, what passes, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgevit.errors import EdgevitError
from edgevit.export.verify import compare, verify
from edgevit.graph.capture import capture
from tests.conftest import tiny_model


@dataclass(frozen=True)
class Echo:
    """Stands where a Program or an artefact would, with outputs of our choosing."""

    outputs: list[np.ndarray]
    card: object
    runtime: str = "echo"
    num_classes: int = 3

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return self.outputs


def parity(tiny_program, actual, expected, tolerance=1e-5):
    card = tiny_program.card
    result = compare(
        Echo([actual], card),
        Echo([expected], card),
        np.zeros((len(actual), 3, 16, 16), np.float32),
        described="given",
        tolerance=tolerance,
        name="echo",
    )
    return result.outputs[0]


values = arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))


@given(values)
def test_equal_outputs_pass_with_nothing_to_report(tiny_program, expected):
    found = parity(tiny_program, expected.copy(), expected)
    assert found.passed
    assert found.max_abs == found.rel == 0.0
    assert found.cosine == pytest.approx(1.0)
    assert found.snr_db is None
    assert found.top1_agreement == 100.0


@given(values.filter(lambda array: np.abs(array).max() > 1), st.floats(1e-4, 0.5))
def test_the_relative_error_is_the_largest_difference_over_the_largest_value(tiny_program, expected, share):
    actual = expected.copy()
    actual[0, 0] += np.float32(share * np.abs(expected).max())
    found = parity(tiny_program, actual, expected, tolerance=share / 2)
    assert found.rel == pytest.approx(share, rel=1e-3)
    assert not found.passed
    assert parity(tiny_program, actual, expected, tolerance=share * 2).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_never_pass(tiny_program, value):
    expected = np.ones((2, 3), np.float32)
    actual = expected.copy()
    actual[0, 0] = value
    found = parity(tiny_program, actual, expected, tolerance=1e9)
    assert not found.passed
    assert found.rel is None
    assert "not finite" in found.explain()


def test_an_output_that_should_be_zero_and_is_not_never_passes(tiny_program):
    zeros = np.zeros((2, 3), np.float32)
    found = parity(tiny_program, zeros + np.float32(1e-9), zeros)
    assert not found.passed
    assert parity(tiny_program, zeros, zeros).passed


def test_another_best_class_is_counted(tiny_program):
    expected = np.eye(4, 3, dtype=np.float32)
    actual = expected.copy()
    actual[0] = [0, 0, 1]
    assert parity(tiny_program, actual, expected).top1_agreement == 75.0


def test_outputs_of_another_shape_are_refused(tiny_program):
    with pytest.raises(EdgevitError, match="it was not made from this program"):
        parity(tiny_program, np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32))


def test_an_artefact_is_verified_on_noise_or_on_images(tiny_onnx, tiny_pt2, image_folder):
    on_noise = verify(tiny_onnx, against=tiny_pt2, samples=5)
    assert on_noise.passed
    assert on_noise.n == 5
    assert on_noise.runtime.startswith("onnxruntime")
    on_images = verify(tiny_onnx, against=tiny_pt2, data=image_folder, samples=7)
    assert on_images.passed
    assert on_images.n == 7
    assert str(image_folder) in on_images.inputs


def test_an_artefact_of_another_program_does_not_pass(tiny_onnx, tiny_program):
    other = capture(
        tiny_model().apply(lambda module: [p.data.mul_(1.5) for p in module.parameters()] and None),
        input_size=(16, 16),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    assert not verify(tiny_onnx, against=other).passed
    larger = replace(
        tiny_program,
        card=tiny_program.card.model_copy(
            update={
                "preprocessing": tiny_program.card.preprocessing.model_copy(update={"input_size": (20, 20)})
            }
        ),
    )
    with pytest.raises(EdgevitError, match="it was not made from this program"):
        verify(tiny_onnx, against=larger)


@pytest.mark.parametrize("options", [{"samples": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}])
def test_options_that_would_make_the_check_empty_are_refused(tiny_onnx, tiny_pt2, options):
    with pytest.raises(EdgevitError, match="--samples|--tolerance"):
        verify(tiny_onnx, against=tiny_pt2, **options)
