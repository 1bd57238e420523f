"""``edgevit inspect --blocks``: bridge blocks and reconstruction blocks, for people and for programs."""

from __future__ import annotations

import json

import pytest
from torch import nn

from edgevit.cli import run
from edgevit.graph.capture import capture
from tests.quant.layers import Classify, Layer, ToTokens, stem
from tests.test_cli import refused


@pytest.fixture(scope="module")
def hybrid_pt2(tmp_path_factory):
    module = nn.Sequential(stem(), stem_again(), ToTokens(), Layer(), Layer(), Classify()).eval()
    program = capture(module, input_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, name="hybrid")
    return program.save(tmp_path_factory.mktemp("hybrid") / "hybrid.pt2")


def stem_again() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1)


def inspected(capsys, *arguments: object) -> str:
    assert run(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_person_sees_each_block_with_its_size_and_cost(capsys, hybrid_pt2):
    lines = inspected(capsys, hybrid_pt2, "--blocks").splitlines()
    start = next(index for index, line in enumerate(lines) if line.split() == ["bridge", "blocks", "1"])
    assert "map->tokens  the model: a feature map becomes tokens (conv2d_1 .. add" in lines[start + 1]
    assert lines[start + 2].split() == ["blocks", "4"]
    kinds = [line.split()[0] for line in lines[start + 3 :]]
    assert kinds == ["stem", "bridge", "transformer", "head"]
    assert all("parameters" in line and "multiply-accumulates" in line for line in lines[start + 3 :])


def test_a_program_gets_the_same_as_json(capsys, hybrid_pt2):
    found = json.loads(inspected(capsys, hybrid_pt2, "--blocks", "--json"))
    plain = json.loads(inspected(capsys, hybrid_pt2, "--json"))
    bridges, blocks = found.pop("bridges"), found.pop("blocks")
    assert found == plain
    assert set(bridges[0]) == {"direction", "enter", "leave", "description"}
    assert set(blocks[0]) == {"kind", "name", "parameters", "macs", "inputs", "outputs", "nodes"}
    assert sum(block["macs"] for block in blocks) == found["macs"]
    assert sum(block["parameters"] for block in blocks) == found["parameters"]


def test_that_there_is_no_bridge_is_said(capsys, tiny_pt2):
    assert "bridge blocks  none: no convolution stage meets" in inspected(capsys, tiny_pt2, "--blocks")


def test_without_the_option_nothing_of_it_is_shown(capsys, hybrid_pt2):
    assert "bridge" not in inspected(capsys, hybrid_pt2)


def test_an_artefact_has_no_blocks(capsys, tmp_path):
    sentence = refused(capsys, 2, "inspect", tmp_path / "model.onnx", "--blocks")
    assert "--blocks: " in sentence
    assert "a .pt2 file" in sentence


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert "does not exist" in refused(capsys, 2, "inspect", tmp_path / "none.pt2", "--blocks")
