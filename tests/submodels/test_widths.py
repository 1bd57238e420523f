"""Widths in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.submodels.nesting import Nesting
from edgevit.submodels.widths import parse_widths

NESTING = Nesting(
    {
        "a.fc1:hidden": (8, 16, 32),
        "b.fc1:hidden": (10, 20, 40),
        "a.qkv:heads": (1, 2, 4),
        "b.qkv:heads#2": (4,),
    }
)


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("1.0", (32, 40, 4, 4)),
        ("hidden=0.5", (16, 20, 4, 4)),
        ("hidden=0.25, heads=1.0", (8, 10, 4, 4)),
        ("8,20,2,4", (8, 20, 2, 4)),
        ("0.25,20,2,1.0", (8, 20, 2, 4)),
    ],
)
def test_what_is_asked_for(text, widths):
    assert tuple(parse_widths(text, NESTING).values()) == widths


@given(st.data())
def test_every_submodel_can_be_asked_for(data):
    widths = {name: data.draw(st.sampled_from(allowed)) for name, allowed in NESTING.widths.items()}
    assert parse_widths(",".join(map(str, widths.values())), NESTING) == widths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "'half' is no width; give a share of all axes"),
        ("0.3", "a.fc1:hidden would have 9.6 of 32 units; it is nested at 8, 16, 32"),
        ("0.5", "b.qkv:heads#2 would have 2 of 4 units; it is nested at 4"),
        ("8,20", "2 widths for 4 axes"),
        ("8,20,3,4", "a.qkv:heads would have 3 of 4 units; it is nested at 1, 2, 4"),
        ("channels=0.5", "'channels' is no role of an axis and no branch; known: heads, hidden"),
        ("hidden=", "'' is no width"),
        ("nan", "is no width"),
        ("0.0", "would have 0 of 32"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(EdgevitError) as caught:
        parse_widths(text, NESTING)
    assert str(caught.value).startswith(f"--submodel {text}: ")
    assert message in str(caught.value)
