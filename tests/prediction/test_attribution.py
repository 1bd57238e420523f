"""Pieces that were timed apart: what they cost more is found, and what is left adds up to the whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.prediction.attribution import Piece, Run, attribute
from edgevit.prediction.checking import left_out
from edgevit.prediction.operations import Operation

OPERATIONS = st.builds(
    Operation,
    st.sampled_from(["CONV_2D", "ADD", "SOFTMAX"]),
    st.just(0),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.just(0),
)
PIECES = st.builds(
    Piece,
    st.lists(OPERATIONS, min_size=1, max_size=4).map(tuple),
    st.floats(1.0, 1e4),
    st.integers(0, 10**6),
)
RUNS = st.builds(
    Run,
    st.sampled_from(["one", "two"]),
    st.sampled_from(["a", "b"]),
    st.just("fp32"),
    st.floats(10.0, 1e5),
    st.lists(PIECES, min_size=1, max_size=8).map(tuple),
)


@settings(max_examples=50, deadline=None)
@given(RUNS)
def test_the_operators_of_a_run_add_up_to_it(run):
    times = {timed.operation: timed.microseconds for timed in attribute([run])}
    assert sum(times[operation] for operation in run.operations) == pytest.approx(run.whole_us)


@settings(max_examples=30, deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=4))
def test_every_operation_is_there_once_with_its_families(runs):
    found = attribute(runs)
    assert {timed.operation for timed in found} == {op for run in runs for op in run.operations}
    assert len({timed.operation for timed in found}) == len(found)
    for timed in found:
        assert timed.families == {run.family for run in runs if timed.operation in run.operations}
        assert timed.microseconds > 0


def test_what_calling_a_piece_costs_is_taken_off():
    """Pieces of 10 us that cost 5 more apart, in models of different length."""
    operations = [Operation("CONV_2D", 1000 * number, 10, 10, 10) for number in range(1, 30)]
    runs = [
        Run(
            str(length),
            str(length),
            "fp32",
            10.0 * length,
            tuple(Piece((op,), 15.0) for op in operations[:length]),
        )
        for length in (5, 17, 29)
    ]
    assert [timed.microseconds for timed in attribute(runs)] == pytest.approx([10.0] * 29)


def test_what_entering_bytes_cost_is_taken_off():
    """Nothing but 1 us for each 1000 bytes, in every piece another number."""

    def run(name, sizes):
        pieces = tuple(Piece((Operation("ADD", 0, size, 10, 0),), 20.0 + size / 1000, size) for size in sizes)
        return Run(name, name, "fp32", 20.0 * len(sizes), pieces)

    runs = [run("a", [1000, 90_000, 3000]), run("b", [50_000, 7000]), run("c", [2000, 4000, 8000, 16_000])]
    assert [timed.microseconds for timed in attribute(runs)] == pytest.approx([20.0] * 9, rel=0.05)


def test_a_family_is_predicted_from_the_others_alone():
    """Of two families of which one takes twice as long, each is taken for the other."""

    def run(name, factor):
        pieces = tuple(
            Piece((Operation("Gemm", 1000 * size, size, size, size),), factor * size)
            for size in (10, 20, 40, 80)
        )
        return Run(name, name, "fp32", factor * 150.0, pieces)

    found = {run.model: predicted for run, predicted in left_out([run("quick", 1.0), run("slow", 2.0)])}
    assert found == {"quick": pytest.approx(300, rel=0.02), "slow": pytest.approx(150, rel=0.02)}
    assert [*left_out([run("quick", 1.0)])] == []
