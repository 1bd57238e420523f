"""Sliced programs in every format: as near to their Program as whole ones are."""

from __future__ import annotations

import functools
import random

import pytest

from edgevit.export.formats import FORMATS
from edgevit.graph.axes import Axis, find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.slicing import slice_axes
from tests.conformance import CONVERTERS, PRECISIONS, half_rounding, program_of, try_program
from tests.zoo import TIMM

# The converter to TFLite takes a second for every ten operators: what it gets is small.
FAST = {
    *(("mobilevit_xxs", "fp32", format_name) for format_name in ("onnx", "coreml")),
    ("hf_swiftformer", "fp32", "tflite"),
}
CASES = [
    (name, precision, to) for name in (*TIMM, "hf_swiftformer") for precision in PRECISIONS for to in FORMATS
]


@functools.cache
def small(name: str) -> Program:
    """A model without some indices of two thirds of its axes, of one axis of each role at least."""
    program, source = prepare_for_export(program_of(name)), random.Random(3)
    by_role: dict[str, list[Axis]] = {}
    for axis in find_axes(program):
        if not axis.fixed:
            by_role.setdefault(axis.role, []).append(axis)
    assert "residual" in by_role
    chosen = [axis for axes in by_role.values() for axis in source.sample(axes, -(-2 * len(axes) // 3))]
    return slice_axes(program, {axis: most(axis, source) for axis in chosen})


def most(axis: Axis, source: random.Random) -> list[int]:
    """Half of the indices or more, but not all: a norm over one channel leaves nothing to compare."""
    return sorted(source.sample(range(axis.size), source.randint(-(-axis.size // 2), axis.size - 1)))


@pytest.mark.parametrize(
    ("name", "precision", "format_name"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_a_sliced_model_computes_the_same_in_every_format(name, precision, format_name):
    pytest.importorskip(CONVERTERS[format_name])
    cell = try_program(small(name), format_name, precision)
    if not cell.passed and cell.rel is not None and precision == "fp16":
        assert cell.rel <= 1.5 * half_rounding(small(name)), "rounding to float16 does not explain it"
    else:
        assert cell.passed, cell.refusal or f"differs by {cell.rel:.1e}"
