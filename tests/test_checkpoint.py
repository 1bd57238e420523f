"""A checkpoint gives back what was put into it, and refuses what is not its own in one sentence."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from edgevit.errors import EdgevitError
from edgevit.graph.checkpoint import Checkpoint


def checkpoint(path, **changes) -> Checkpoint:
    return Checkpoint(**{"path": path / "a", "run": "run", "noun": "search", "version": 1} | changes)


def test_what_was_written_is_given_back(tmp_path):
    checkpoint(tmp_path).write({"x": torch.arange(3.0)}, {"done": [1, 2]})
    tensors, progress = checkpoint(tmp_path).read(lambda *found: found)
    assert torch.equal(tensors["x"], torch.arange(3.0))
    assert progress == {"done": [1, 2]}


def test_without_a_file_there_is_nothing_to_go_on_from(tmp_path):
    assert checkpoint(tmp_path).read(lambda *_: 1 / 0) is None


@pytest.mark.parametrize("other", [{"run": "another"}, {"version": 2}])
def test_the_file_of_another_run_is_refused_and_kept(tmp_path, other):
    checkpoint(tmp_path).write({"x": torch.zeros(1)}, 1)
    with pytest.raises(
        EdgevitError, match="a was left by a search of another model, on other images or with"
    ):
        checkpoint(tmp_path, **other).read(lambda *_: 1 / 0)
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, RuntimeError])
def test_what_does_not_fit_is_damaged(tmp_path, error):
    checkpoint(tmp_path).write({"x": torch.zeros(1)}, 1)

    def restore(*_):
        raise error

    with pytest.raises(EdgevitError, match="a is no search in progress; delete it"):
        checkpoint(tmp_path).read(restore)


def test_a_file_without_a_header_is_damaged(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a")
    with pytest.raises(EdgevitError, match="a is no search in progress; delete it"):
        checkpoint(tmp_path).read(lambda *_: 1 / 0)
