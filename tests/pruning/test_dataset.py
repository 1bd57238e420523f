"""Many labelled images: which are held out, how they are read, how they are run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.images import ImageReader, open_folder
from edgevit.pruning.dataset import held_out, outputs_of, read_labelled
from edgevit.pruning.heads import with_features
from tests.pruning.patterns import learned, patterns


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 3))
def test_every_class_is_on_both_sides_and_every_image_on_one(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    learned_from, judged = held_out(labels, share, seed)
    assert sorted([*learned_from, *judged]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = int((labels[judged] == label).sum())
        assert 1 <= held <= count - 1
        assert held == min(max(1, round(share * count)), count - 1)


def test_the_same_seed_holds_out_the_same():
    labels = np.arange(60) % 3
    (first, _), (second, _), (third, _) = (held_out(labels, 0.5, seed) for seed in (0, 0, 1))
    assert first.tolist() == second.tolist() != third.tolist()


def test_outputs_are_those_of_the_program_whatever_the_type_of_the_images():
    program = with_features(learned())
    images = patterns(70, seed=4)[0].numpy().astype(np.float16)
    found = outputs_of(program, images)
    for one, other in zip(found, program.run(images.astype(np.float32)), strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(one, torch.from_numpy(other), atol=1e-5)


def test_images_are_read_as_the_card_says_with_the_classes_of_those_that_could_be_used(
    tiny_program, image_folder
):
    (image_folder / "square" / "a.jpg").write_text("hello")
    images, labels = read_labelled(tiny_program, image_folder, count=100, on_bad_image="skip")
    folder = open_folder(image_folder, class_names=tiny_program.card.labels)
    reader = ImageReader(folder, tiny_program.card.preprocessing, on_bad_image="skip")
    expected = list(reader)
    assert images.dtype == np.float16
    assert np.array_equal(images, np.concatenate([batch.images for batch in expected]).astype(np.float16))
    assert labels.tolist() == [label for batch in expected for label in batch.labels]
    assert len(labels) == 11


def test_so_many_are_drawn(tiny_program, image_folder):
    assert len(read_labelled(tiny_program, image_folder, count=5)[1]) == 5


def test_none_that_could_be_used_is_refused(tiny_program, image_folder):
    for path in image_folder.glob("*/*"):
        path.write_text("hello")
    with pytest.raises(EdgevitError, match="none of the 12 images in .* could be used"):
        read_labelled(tiny_program, image_folder, count=100, on_bad_image="skip")
