"""A reconstruction that was interrupted goes on to the very bits it would have come to."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from edgevit.errors import EdgevitError
from edgevit.quant.checkpoint import checkpoint_at, go_on, keep
from edgevit.quant.quantizing import QuantizeResult, quantize
from edgevit.quant.reconstruct import BlockResult, Reconstruction
from tests.quant.helpers import SHAPE, Net, Tokens, images, seeded, started
from tests.quant.test_reconstruct import TwoLayers
from tests.rewrites.helpers import program_of

PROGRAMS = {model: program_of(seeded(model), SHAPE) for model in (Net, Tokens, TwoLayers)}
RESULTS = (
    BlockResult("stem", 0.25, 0.1 + 0.2, 1 / 3, "taken back"),
    BlockResult("head", 0.0, 1e-20, 0.0, "learned"),
)


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def run(model, path=None, **options) -> QuantizeResult:
    options = {"precision": "w4a4", "placement": "full", "iterations": 4} | options
    return quantize(PROGRAMS[model], images().numpy(), checkpoint=path, **options)


def interrupted(monkeypatch, model, path, blocks: int, **options) -> None:
    """The same run, stopped while the block behind `blocks` others is learned."""
    learn = Reconstruction._learn

    def stop(self, index, targets):
        if index == blocks:
            learn(self, index, targets)
            raise StoppedError
        return learn(self, index, targets)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Reconstruction, "_learn", stop)
        run(model, path, **options)


def assert_same(left: QuantizeResult, right: QuantizeResult) -> None:
    assert left.blocks == right.blocks
    assert str(left.program.graph) == str(right.program.graph)
    assert left.program.exported.state_dict.keys() == right.program.exported.state_dict.keys()
    for name, value in left.program.exported.state_dict.items():
        assert torch.equal(value, right.program.exported.state_dict[name]), name


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Net, {"placement": "inputs"}),
        (Net, {"precision": "w8", "placement": None}),
        (Tokens, {"precision": "w4a8", "placement": "layers"}),
        pytest.param(Tokens, {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_that_goes_on_gives_the_bits_of_one_that_never_stopped(monkeypatch, tmp_path, model, options):
    path = tmp_path / "a.checkpoint"
    whole = run(model, **options)
    for blocks in range(1, len(whole.blocks)):
        interrupted(monkeypatch, model, path, blocks, **options)
        assert path.exists()
        assert_same(run(model, path, **options), whole)
        assert not path.exists()


@pytest.mark.slow
def test_a_run_can_be_interrupted_again_and_again(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    whole = run(TwoLayers)
    for blocks in (1, len(whole.blocks) - 1):
        interrupted(monkeypatch, TwoLayers, path, blocks)
    assert_same(run(TwoLayers, path), whole)


def test_what_is_done_is_not_learned_again(monkeypatch, tmp_path):
    path, learned = tmp_path / "a.checkpoint", []
    interrupted(monkeypatch, TwoLayers, path, 2)
    learn = Reconstruction._learn

    def note(self, index, targets):
        learned.append(index)
        return learn(self, index, targets)

    monkeypatch.setattr(Reconstruction, "_learn", note)
    result = run(TwoLayers, path)
    assert learned == list(range(2, len(result.blocks)))


def test_a_run_stopped_in_its_first_block_leaves_nothing(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    interrupted(monkeypatch, Net, path, 0)
    assert not path.exists()


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"iterations": 5}, {"precision": "w4a8"}, {"exclude": ["head"]}], ids=str
)
def test_the_file_of_a_run_with_other_options_is_refused_and_kept(monkeypatch, tmp_path, other):
    path = tmp_path / "a.checkpoint"
    interrupted(monkeypatch, Net, path, 1)
    with pytest.raises(
        EdgevitError, match=r"a\.checkpoint was left by a reconstruction of another model, on other images"
    ):
        run(Net, path, **other)
    assert path.exists()


def test_the_file_of_another_model_or_of_other_images_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    interrupted(monkeypatch, Net, path, 1)
    options = {"precision": "w4a4", "placement": "full", "iterations": 4, "checkpoint": path}
    with pytest.raises(EdgevitError, match="another model"):
        quantize(PROGRAMS[Tokens], images().numpy(), **options)
    with pytest.raises(EdgevitError, match="on other images"):
        quantize(PROGRAMS[Net], images(seed=1).numpy(), **options)


def spoil_with_text(path):
    path.write_text("notes")


def spoil_with_nothing(path):
    path.write_bytes(b"")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


def put_a_folder(path):
    path.unlink()
    path.mkdir()


def put_other_tensors(path):
    save_file({"a": torch.zeros(1)}, path)


def put_another_list(path):
    save_file({"a": torch.zeros(1)}, path, metadata={"version": "3", "run": "run", "progress": "3"})


def put_no_tensors(path):
    save_file({"a": torch.zeros(1)}, path, metadata={"version": "3", "run": "run", "progress": "[]"})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_with_text,
        spoil_with_nothing,
        cut_short,
        put_a_folder,
        put_other_tensors,
        put_another_list,
        put_no_tensors,
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, spoil):
    path = tmp_path / "a.checkpoint"
    simulation = started(PROGRAMS[Net]).simulation
    checkpoint = checkpoint_at(path, "run")
    keep(checkpoint, simulation, RESULTS)
    spoil(path)
    with pytest.raises(EdgevitError, match=r"a\.checkpoint is no reconstruction in progress; delete it$"):
        go_on(checkpoint, simulation)


def test_results_and_parameters_are_read_as_they_were_written(tmp_path):
    checkpoint = checkpoint_at(tmp_path / "a.checkpoint", "run")
    first, second = (started(PROGRAMS[Net], "full").simulation for _ in range(2))
    with torch.no_grad():
        for value in first.state().values():
            value.add_(0.125)
    keep(checkpoint, first, RESULTS)
    assert go_on(checkpoint, second) == RESULTS
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())


def test_without_a_file_nothing_is_done_yet(tmp_path):
    checkpoint = checkpoint_at(tmp_path / "a.checkpoint", "run")
    assert go_on(checkpoint, started(PROGRAMS[Net]).simulation) == ()


def test_removing_a_file_that_is_not_there_is_no_error(tmp_path):
    checkpoint_at(tmp_path / "a.checkpoint", "run").remove()
    assert list(tmp_path.iterdir()) == []
