"""Every op of the reference evaluator, written to a package with coremltools' builder and read back."""

import numpy as np
import pytest

pytest.importorskip("coremltools")

from edgevit.errors import EdgevitError
from edgevit.export.mil import load_package
from edgevit.export.mil.registry import HANDLERS
from tests import (
    coreml_cases_linear,
    coreml_cases_math,
    coreml_cases_quant,
    coreml_cases_spatial,
    coreml_cases_tensor,
)
from tests.coreml_cases import floats
from tests.coreml_helpers import save_mil

CASES = [
    *coreml_cases_math.CASES,
    *coreml_cases_linear.CASES,
    *coreml_cases_spatial.CASES,
    *coreml_cases_tensor.CASES,
    *coreml_cases_quant.CASES,
]


def feed_of(cases):
    return {f"in{place}_{index}": array for place, item in cases for index, array in enumerate(item.inputs)}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Every case's outputs and declared ops: one package per iOS version holds all of its cases."""
    results, kinds = {}, set()
    for ios in (16, 17, 18):
        cases = [(place, item) for place, item in enumerate(CASES) if item.ios == ios]
        feed = feed_of(cases)

        def build(mb, variables, cases=cases):
            outputs = {}
            for place, item in cases:
                arguments = [variables[f"in{place}_{index}"] for index in range(len(item.inputs))]
                made = item.build(mb, *arguments)
                made = made if isinstance(made, list | tuple) else [made]
                outputs |= {f"out{place}_{index}": value for index, value in enumerate(made)}
            return outputs

        path = save_mil(tmp_path_factory.mktemp("ops") / f"ios{ios}.mlpackage", build, feed, ios=ios)
        program = load_package(path)
        results |= program.evaluate(feed)
        kinds |= {operation.kind for operation in program.operations}
    return results, kinds


@pytest.mark.parametrize("place", range(len(CASES)), ids=[item.name for item in CASES])
def test_op_computes_what_its_specification_says(place, evaluated):
    item = CASES[place]
    expected = item.expected(*item.inputs)
    for index, wanted in enumerate(expected if isinstance(expected, tuple) else (expected,)):
        found = evaluated[0][f"out{place}_{index}"]
        # Core ML has no truth values at a package's border: coremltools returns 0.0 and 1.0.
        assert found.dtype == (np.float32 if wanted.dtype == np.bool_ else wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_every_op_that_is_known_is_tested(evaluated):
    # classify needs a description that the builder does not write: test_coreml has packages with one.
    assert set(HANDLERS) - evaluated[1] == {"classify"}


def test_half_precision_rounds_after_every_op(tmp_path):
    x = floats(4, 8)

    def build(mb, variables):
        scaled = mb.mul(x=variables["x"], y=np.float16(3.3))
        return {"y": mb.reduce_sum(x=mb.exp(x=scaled), axes=[1])}

    found = load_package(save_mil(tmp_path / "half.mlpackage", build, {"x": x}, half=True)).evaluate(
        {"x": x}
    )["y"]
    scaled = x.astype(np.float16) * np.float16(3.3)
    exponentials = np.exp(scaled.astype(np.float32)).astype(np.float16)
    # The sum itself is taken in single precision and rounded once.
    expected = exponentials.astype(np.float32).sum(1).astype(np.float16)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_half_precision_overflows_to_infinity(tmp_path):
    x = np.float32([300.0])
    path = save_mil(
        tmp_path / "big.mlpackage",
        lambda mb, variables: {"y": mb.square(x=variables["x"])},
        {"x": x},
        half=True,
    )
    assert np.isinf(load_package(path).evaluate({"x": x})["y"]).all()


def test_an_unknown_op_is_named(tmp_path):
    x = np.float32([[1.0, 0.0]])
    path = save_mil(
        tmp_path / "odd.mlpackage", lambda mb, variables: {"y": mb.non_zero(x=variables["x"])}, {"x": x}
    )
    with pytest.raises(EdgevitError, match=r"does not know the operation 'non_zero'"):
        load_package(path)


def test_an_op_that_cannot_be_computed_is_named(tmp_path):
    path = save_mil(
        tmp_path / "gather.mlpackage",
        lambda mb, variables: {"y": mb.gather(x=variables["x"], indices=variables["at"], axis=0)},
        {"x": floats(3), "at": np.int32([0])},
    )
    with pytest.raises(EdgevitError, match=r"\(gather\) cannot be evaluated"):
        load_package(path).evaluate({"x": floats(3), "at": np.int32([9])})


@pytest.mark.parametrize("feed", [{}, {"x": floats(4)}], ids=["missing", "of-another-shape"])
def test_an_input_that_does_not_fit_is_refused(tmp_path, feed):
    path = save_mil(
        tmp_path / "one.mlpackage", lambda mb, variables: {"y": mb.relu(x=variables["x"])}, {"x": floats(3)}
    )
    with pytest.raises(EdgevitError, match="input 'x'"):
        load_package(path).evaluate(feed)
