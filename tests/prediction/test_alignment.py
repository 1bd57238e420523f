"""Operators that a delegate ran, found again among those of the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.prediction.alignment import align, places_of

MADE = {
    "CONV_2D": "Convolution (NHWC, F32) IGEMM",
    "FULLY_CONNECTED": "Fully Connected (NC, F32) GEMM",
    "ADD": "Add (ND)",
    "LOGISTIC": "Sigmoid (NC)",
    "DEQUANTIZE": "Convert (NC)",
    "SQUARED_DIFFERENCE": "Squared Difference (ND)",
}
KINDS = st.lists(st.sampled_from(sorted(MADE)), min_size=1, max_size=40)


@given(KINDS, st.data())
def test_what_the_delegate_puts_between_belongs_to_the_one_before(kinds, data):
    made, expected = [], []
    for place, kind in enumerate(kinds):
        extra = data.draw(st.integers(0, 2))
        made += [MADE[kind], *["Static Reshape (NC)"] * extra]
        expected += [place] * (1 + extra)
    assert align(kinds, made) == expected


@given(KINDS, st.data())
def test_what_another_operator_takes_in_shifts_nothing(kinds, data):
    """Paddings are in no list of what ran."""
    padded, places = [], []
    for kind in kinds:
        padded += ["PAD"] * data.draw(st.integers(0, 2))
        places.append(len(padded))
        padded.append(kind)
    assert align(padded, [MADE[kind] for kind in kinds]) == places


def test_a_convolution_of_single_pixels_is_fully_connected_there():
    kinds = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    made = [
        "Fully Connected (NC, F32) GEMM",
        "Convolution (NHWC, F32) DWConv",
        "Convolution (NHWC, F32) IGEMM",
    ]
    assert align(kinds, made) == [0, 1, 2]


def test_what_no_operator_of_the_file_explains_belongs_to_none():
    assert align(["ADD", "SUB"], ["Add (ND)", "Convolution (NHWC, F32) IGEMM", "Subtract (ND)"]) == [
        0,
        None,
        1,
    ]


def test_operators_outside_the_delegate_keep_their_places():
    """The delegate's first part has what comes later in the file: nothing in between hangs on it."""
    kinds = ["ADD", "GELU", "MUL", "SUB"]
    ran = [(None, "Add (ND)"), (None, "Subtract (ND)"), (1, "GELU"), (None, "Multiply (ND)")]
    assert places_of(kinds, ran, [[0, 3], [2]]) == [0, 3, 1, 2]


def test_parts_that_are_not_those_that_ran_are_refused():
    with pytest.raises(EdgevitError, match="ran in 1 parts and took 2"):
        places_of(["ADD", "ADD"], [(None, "Add (ND)"), (None, "Add (ND)")], [[0], [1]])
