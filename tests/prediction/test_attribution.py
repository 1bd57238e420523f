"""Operations of several runs, each once; a family predicted from the others."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.prediction.attribution import Run, attribute
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


def run_of(name: str, times: list[tuple[Operation, float]]) -> Run:
    """A model that is its own family, and nothing but these."""
    operations = tuple(operation for operation, _ in times)
    return Run(name, name, "fp32", sum(us for _, us in times), operations, tuple(times))


RUNS = st.builds(
    run_of,
    st.sampled_from(["one", "two"]),
    st.lists(st.tuples(OPERATIONS, st.floats(0.1, 1e4)), min_size=1, max_size=12),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=4))
def test_every_operation_is_there_once_with_its_mean_and_its_families(runs):
    found = attribute(runs)
    assert {timed.operation for timed in found} == {op for run in runs for op in run.operations}
    assert len({timed.operation for timed in found}) == len(found)
    for timed in found:
        times = [us for run in runs for operation, us in run.times if operation == timed.operation]
        assert timed.microseconds == pytest.approx(fmean(times))
        assert timed.families == {run.family for run in runs if timed.operation in run.operations}


def test_a_family_is_predicted_from_the_others_alone():
    """Of two families of which one takes twice as long, each is taken for the other."""

    def run(name, factor):
        sizes = (10, 20, 40, 80)
        return run_of(
            name, [(Operation("Gemm", 1000 * size, size, size, size), factor * size) for size in sizes]
        )

    found = {run.model: predicted for run, predicted in left_out([run("quick", 1.0), run("slow", 2.0)])}
    assert found == {"quick": pytest.approx(300, rel=0.02), "slow": pytest.approx(150, rel=0.02)}
    assert [*left_out([run("quick", 1.0)])] == []
