"""Programs: run, saved, loaded, fixed to a batch."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.graph.capture import capture
from edgevit.graph.card import Card, Step
from edgevit.graph.program import Program, run_in_batches
from tests.conftest import LABELS, tiny_model


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16), dtype=np.float32)


def test_it_computes_what_the_module_does(tiny_program):
    images = noise(5)
    with torch.no_grad():
        expected = tiny_model().eval()(torch.from_numpy(images)).numpy()
    assert np.allclose(tiny_program.run(images)[0], expected, atol=1e-6)


def test_saving_and_loading_is_identity(tiny_program, tmp_path):
    path = tiny_program.save(tmp_path / "a.pt2")
    loaded = Program.load(path)
    assert loaded.card == tiny_program.card
    assert np.array_equal(loaded.run(noise(3))[0], tiny_program.run(noise(3))[0])
    assert loaded.batch is None
    assert loaded.num_classes == 3
    assert (
        loaded.parameter_count
        == tiny_program.parameter_count
        == sum(p.numel() for p in tiny_model().parameters())
    )


class Tied(torch.nn.Module):
    """Two linears with one weight, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = torch.nn.Linear(12, 12)
        self.second = torch.nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(12, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.again(self.second(self.first(image.flatten(1)))))


def test_a_parameter_that_modules_share_is_counted_once(tmp_path):
    program = capture(Tied(), input_size=(2, 2), mean=(0.5,) * 3, std=(0.5,) * 3, labels=LABELS, name="tied")
    expected = 12 * 12 + 12 + 12 + 3 * 12 + 3
    assert program.parameter_count == expected
    assert Program.load(program.save(tmp_path / "tied.pt2")).parameter_count == expected


def test_a_saved_program_names_no_path_of_the_machine(tiny_pt2):
    with zipfile.ZipFile(tiny_pt2) as archive:
        graph = next(archive.read(name) for name in archive.namelist() if name.endswith("model.json"))
    assert b"stack_trace" not in graph
    assert b"conftest.py" not in graph


def test_an_existing_file_is_kept_unless_forced(tiny_program, tmp_path):
    path = tmp_path / "a.pt2"
    path.write_bytes(b"mine")
    with pytest.raises(EdgevitError, match=r"a\.pt2 exists already; .* --force"):
        tiny_program.save(path)
    assert path.read_bytes() == b"mine"
    tiny_program.save(path, force=True)
    assert Program.load(path).card == tiny_program.card


def test_only_pt2_files_are_written(tiny_program, tmp_path):
    with pytest.raises(EdgevitError, match=r"a program is saved as \.pt2"):
        tiny_program.save(tmp_path / "a.onnx")


def test_a_fixed_batch_computes_the_same(tiny_program):
    fixed = tiny_program.with_batch(2)
    assert fixed.batch == 2
    assert fixed.with_batch(2) is fixed
    assert np.allclose(fixed.run(noise(5))[0], tiny_program.run(noise(5))[0], atol=1e-6)
    assert all(isinstance(size, int) for size in fixed.input_shape)
    with pytest.raises(EdgevitError, match="was captured for a batch of 2 and cannot be made 4"):
        fixed.with_batch(4)


def test_outputs_must_be_named(tiny_program):
    card = tiny_program.card.model_copy(update={"outputs": ("logits", "features")})
    with pytest.raises(EdgevitError, match="has 1 outputs, its card names 2"):
        Program(tiny_program.exported, card)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 7), st.booleans())
def test_running_in_batches_changes_no_answer(count, batch, fixed):
    images = np.arange(count, dtype=np.float32)[:, None]
    seen: list[int] = []

    def double(part: np.ndarray) -> list[np.ndarray]:
        seen.append(len(part))
        return [part * 2, part + 1]

    doubled, more = run_in_batches(double, images, batch=batch, fixed=fixed)
    assert np.array_equal(doubled, images * 2)
    assert np.array_equal(more, images + 1)
    assert all(size == batch for size in seen) if fixed else max(seen) <= batch


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        run_in_batches(lambda part: [part], np.zeros((0, 1), np.float32), batch=4, fixed=False)


def test_a_card_is_refused_when_it_has_unknown_keys(tiny_program):
    text = tiny_program.card.model_dump_json()
    assert Card.from_json(text, "x") == tiny_program.card
    with pytest.raises(EdgevitError, match=r"x: its card is not valid: colour: Extra inputs"):
        Card.from_json(text.replace('"version"', '"colour":1,"version"', 1), "x")
    with pytest.raises(EdgevitError, match=r"version: Input should be 1"):
        Card.from_json(text.replace('"version":1', '"version":2', 1), "x")


def test_steps_are_kept_in_order(tiny_program):
    card = tiny_program.card.with_step(Step(name="prune", options={"keep": 0.5}, measured={"top1": 1.0}))
    assert [step.name for step in card.steps] == ["capture", "prune"]
    assert Card.from_json(card.model_dump_json(), "x") == card


def test_the_card_says_what_was_captured(tiny_program):
    card = tiny_program.card
    assert card.labels == LABELS
    assert card.steps[0].measured["dynamic_batch"] is True
    assert len(card.provenance.weights_sha256) == 64
    assert card.provenance.tools["torch"] == torch.__version__
