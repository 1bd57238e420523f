"""Times of operators from those of others: what is planted is found, and nothing is below nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.prediction.operations import Operation, Timed
from edgevit.prediction.predictor import Predictor
from edgevit.prediction.regression import fit, relative_least_squares

SIZES = st.integers(1, 10**7)
OPERATIONS = st.builds(Operation, st.just("Gemm float"), SIZES, SIZES, SIZES, SIZES)


def timed(operation: Operation, microseconds: float) -> Timed:
    return Timed(operation, microseconds, frozenset({"a"}))


def planted(operation: Operation) -> float:
    """A device of 1 us a call, 10 GMAC/s and 4 GB/s."""
    moved = operation.read + operation.written + operation.weights
    return 1 + operation.macs / 1e4 + moved / 4e3


@settings(max_examples=30, deadline=None)
@given(st.lists(OPERATIONS, min_size=8, max_size=30, unique=True))
def test_a_device_that_is_a_roofline_is_found(operations):
    curve = fit([timed(operation, planted(operation)) for operation in operations])
    found = curve([operation.features for operation in operations])
    assert found == pytest.approx([planted(operation) for operation in operations], rel=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(OPERATIONS, st.floats(0.5, 1e4)), min_size=1, max_size=12), OPERATIONS)
def test_whatever_was_measured_a_time_is_positive_and_finite(measured, other):
    curve = fit([timed(operation, time) for operation, time in measured])
    (found,) = curve([other.features])
    assert 0 < found < math.inf


@settings(max_examples=30, deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=3, unique=True), OPERATIONS, st.integers(1, 10))
def test_on_few_shapes_more_of_everything_never_takes_less(operations, one, times):
    curve = fit([timed(operation, planted(operation)) for operation in operations])
    more = [times * number for number in one.features]
    small, large = curve([one.features, more])
    assert large >= small


def test_what_was_measured_often_is_predicted_closer_than_its_roofline():
    """A kernel that takes half as long from some size on: no sum of costs says that."""
    operations = [Operation("Conv", 1000 * 2**step, 64, 64, 64) for step in range(14)]
    times = [planted(op) * (0.5 if step >= 7 else 1.0) for step, op in enumerate(operations)]
    curve = fit([timed(op, time) for op, time in zip(operations, times, strict=True)])
    features = np.array([op.features for op in operations])
    rooflines = np.maximum(curve.roofline[0] + features[:, :-1] @ curve.roofline[1:], 0.1)
    off = np.abs(np.log(curve(features) / times)).mean()
    assert off < np.abs(np.log(rooflines / times)).mean()


def test_costs_are_never_negative():
    columns = np.array([[1.0, 10.0], [1.0, 20.0], [1.0, 30.0]])
    assert (relative_least_squares(columns, np.array([3.0, 2.0, 1.0])) >= 0).all()


def test_a_kind_that_was_not_measured_is_guessed_from_those_that_multiply_alike():
    slow = [timed(Operation("Gemm", 10**6 * step, 10, 10, 10), 1e3 * step) for step in (1, 2, 3, 4)]
    quick = [timed(Operation("Relu", 0, 1000 * step, 1000 * step, 0), float(step)) for step in (1, 2, 3, 4)]
    predictor = Predictor([*slow, *quick])
    product, moved = Operation("Conv", 2 * 10**6, 10, 10, 10), Operation("Tanh", 0, 2000, 2000, 0)
    assert not predictor.knows(product)
    assert predictor.times([product, moved]) == pytest.approx([2e3, 2.0], rel=0.1)


def test_times_come_in_the_order_of_the_operations():
    rows = [timed(Operation(kind, 0, 100 * step, 100, 0), 10.0**step) for kind in "ab" for step in (1, 2, 3)]
    predictor = Predictor(rows)
    operations = [row.operation for row in rows]
    forward = predictor.times(operations)
    assert predictor.times(operations[::-1]) == pytest.approx(forward[::-1])
