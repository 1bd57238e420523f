"""``edgevit inspect --axes``: what can shrink, for people and for programs."""

from __future__ import annotations

import json

import pytest
from torch import nn

from edgevit.cli import run
from edgevit.graph.capture import capture
from tests.test_cli import refused


@pytest.fixture(scope="module")
def small_pt2(tmp_path_factory):
    module = nn.Sequential(
        nn.Conv2d(3, 6, 8), nn.Flatten(), nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 5)
    ).eval()
    program = capture(module, input_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, name="small")
    return program.save(tmp_path_factory.mktemp("small") / "small.pt2")


def inspected(capsys, *arguments: object) -> str:
    assert run(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_person_sees_each_axis_and_why_others_are_fixed(capsys, small_pt2):
    lines = [line.split() for line in inspected(capsys, small_pt2, "--axes").splitlines()]
    start = lines.index(["axes", "2"])
    assert [line[:2] for line in lines[start + 1 : start + 3]] == [["6", "0:channels"], ["24", "2:hidden"]]
    assert lines[start + 3] == ["fixed", "4"]
    assert ["1", "it", "is", "the", "result"] in lines[start + 4 :]


def test_a_program_gets_the_same_as_json(capsys, small_pt2):
    found = json.loads(inspected(capsys, small_pt2, "--axes", "--json"))["axes"]
    hidden = next(axis for axis in found if axis["name"] == "2:hidden")
    assert hidden["size"] == 24
    assert hidden["fixed"] is None
    assert {(touch["path"], touch["dim"]) for touch in hidden["touches"]} == {
        ("2.weight", 0),
        ("2.bias", 0),
        ("4.weight", 1),
    }
    stored = 3 * 6 * 64 + 6 + 6 * 24 + 24 + 24 * 5 + 5
    assert hidden["share"] == pytest.approx((6 * 24 + 24 + 24 * 5) / stored)


def test_without_the_option_nothing_of_it_is_shown(capsys, small_pt2):
    assert "axes" not in inspected(capsys, small_pt2)


def test_an_artefact_has_no_axes(capsys, tmp_path):
    sentence = refused(capsys, 2, "inspect", tmp_path / "model.onnx", "--axes")
    assert "--axes: " in sentence
    assert "a .pt2 file" in sentence
