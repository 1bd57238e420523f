"""Resizing equals Pillow's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.resampling import resize

PIL = pytest.importorskip("PIL.Image")

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
edges = st.integers(1, 120)


def noise(height: int, width: int, seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@settings(max_examples=150, deadline=None)
@given(edges, edges, edges, edges, st.sampled_from(sorted(FILTERS)), st.integers(0, 1000))
def test_it_equals_pillow_width_first(height, width, new_height, new_width, name, seed):
    image = noise(height, width, seed)
    expected = PIL.fromarray(image)
    if name == "nearest":
        expected = expected.resize((new_width, new_height), FILTERS[name])
    else:
        # Pillow 13 may do the height first; two calls fix the order.
        expected = expected.resize((new_width, height), FILTERS[name])
        expected = expected.resize((new_width, new_height), FILTERS[name])
    assert np.array_equal(resize(image, new_height, new_width, name), np.asarray(expected))


@given(edges, edges, st.sampled_from(sorted(FILTERS)))
@settings(max_examples=30, deadline=None)
def test_the_same_size_changes_nothing(height, width, name):
    image = noise(height, width, 0)
    assert np.array_equal(resize(image, height, width, name), image)


def test_grey_images_keep_their_one_channel():
    image = noise(30, 40, 1, channels=1)
    expected = np.asarray(PIL.fromarray(image[:, :, 0]).resize((17, 30), FILTERS["bicubic"]))
    assert np.array_equal(resize(image, 30, 17, "bicubic")[:, :, 0], expected)


def test_shrinking_does_not_alias():
    """A one-pixel checkerboard becomes grey, where sampling four neighbours would keep black or white."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    inner = resize(image, 8, 8, "bicubic")[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() <= 2
