"""Subsets of classes: laws of both ways to make them, and the confusion that one of them goes by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.pruning.subsets import Subsets, balanced, by_confusion, confusion_of

SIZES = st.integers(1, 24).flatmap(lambda classes: st.tuples(st.just(classes), st.integers(1, classes)))
SEEDS = st.integers(0, 2**32)


def random_confusion(classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((classes, classes)) ** 3


def within(confusion: np.ndarray, subsets: Subsets) -> float:
    """The confusion inside subsets, said in another way than where it is maximised."""
    pairs = (pair for subset in subsets for pair in itertools.permutations(subset, 2))
    return float(sum(confusion[one, other] for one, other in pairs))


def assert_balanced_partition(subsets: Subsets, classes: int, parts: int) -> None:
    sizes = [len(subset) for subset in subsets]
    assert len(subsets) == parts
    assert sorted(itertools.chain(*subsets)) == list(range(classes))
    assert max(sizes) - min(sizes) <= 1
    assert all(list(subset) == sorted(subset) for subset in subsets)
    assert list(subsets) == sorted(subsets)


def neighbours(subsets: Subsets):
    """Every division that is one swap away, or one move from a larger subset to a smaller."""
    for one, other in itertools.combinations(range(len(subsets)), 2):
        rest = [subset for place, subset in enumerate(subsets) if place not in (one, other)]
        left, right = set(subsets[one]), set(subsets[other])
        exchanges = [({a}, {b}) for a in left for b in right]
        exchanges += [({a}, set()) for a in left if len(left) > len(right)]
        exchanges += [(set(), {b}) for b in right if len(right) > len(left)]
        for given_away, received in exchanges:
            yield (*rest, tuple(left - given_away | received), tuple(right - received | given_away))


@given(SIZES, SEEDS)
def test_random_subsets_are_a_balanced_partition(sizes, seed):
    assert_balanced_partition(balanced(*sizes, seed=seed), *sizes)


@given(SIZES, SEEDS)
def test_subsets_by_confusion_are_a_balanced_partition(sizes, seed):
    classes, parts = sizes
    assert_balanced_partition(by_confusion(random_confusion(classes, seed), parts, seed=seed), *sizes)


@given(SIZES, SEEDS)
def test_the_same_seed_gives_the_same_subsets(sizes, seed):
    classes, parts = sizes
    confusion = random_confusion(classes, seed)
    assert balanced(classes, parts, seed=seed) == balanced(classes, parts, seed=seed)
    assert by_confusion(confusion, parts, seed=seed) == by_confusion(confusion, parts, seed=seed)


def test_another_seed_gives_other_random_subsets():
    assert len({balanced(20, 4, seed=seed) for seed in range(10)}) == 10


@given(SIZES, SEEDS)
def test_no_swap_improves_what_was_found(sizes, seed):
    classes, parts = sizes
    confusion = random_confusion(classes, seed)
    found = by_confusion(confusion, parts, seed=seed)
    best = max((within(confusion, other) for other in neighbours(found)), default=0.0)
    assert best <= within(confusion, found) + 1e-9


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_of_few_classes_the_best_division_there_is_is_found(parts, seed):
    confusion = random_confusion(8, seed)
    divisions = (
        tuple(tuple(place for place in range(8) if parted[place] == part) for part in range(parts))
        for parted in itertools.product(range(parts), repeat=8)
    )
    sizes = sorted(len(subset) for subset in balanced(8, parts, seed=0))
    best = max(within(confusion, d) for d in divisions if sorted(map(len, d)) == sizes)
    assert within(confusion, by_confusion(confusion, parts, seed=0)) == pytest.approx(best)


@pytest.mark.parametrize("parts", [2, 5, 10])
def test_groups_that_are_confused_among_themselves_are_found(parts):
    groups = balanced(100, parts, seed=3)
    confusion = random_confusion(100, 0) * 0.1
    for group in groups:
        confusion[np.ix_(group, group)] += 1.0
    assert by_confusion(confusion, parts, seed=0) == groups


def test_confusion_in_one_direction_is_enough_to_keep_classes_together():
    confusion = np.zeros((4, 4))
    confusion[0, 3] = confusion[2, 1] = 0.5
    assert by_confusion(confusion, 2, seed=0) == ((0, 3), (1, 2))


def test_a_class_with_itself_is_no_confusion():
    confusion = np.diag([9.0, 0.0, 0.0, 9.0])
    confusion[0, 1] = 0.1
    assert (0, 1) in by_confusion(confusion, 2, seed=0)


def test_hundreds_of_classes_are_no_trouble():
    confusion = random_confusion(200, 0)
    found = by_confusion(confusion, 10, seed=0)
    assert within(confusion, found) > 1.1 * within(confusion, balanced(200, 10, seed=0))


@pytest.mark.parametrize("parts", [0, -1, 6])
def test_as_many_parts_as_cannot_be_are_refused(parts):
    sentence = f"parts: {parts} subsets of 5 classes; 1 to 5 are possible"
    with pytest.raises(EdgevitError, match=sentence):
        balanced(5, parts, seed=0)
    with pytest.raises(EdgevitError, match=sentence):
        by_confusion(np.zeros((5, 5)), parts, seed=0)


@pytest.mark.parametrize(
    ("confusion", "sentence"),
    [
        (np.zeros((2, 3)), r"confusion: a matrix of \(classes, classes\) is needed, not \(2, 3\)"),
        (np.zeros(4), r"confusion: a matrix of"),
        (np.full((2, 2), np.nan), "confusion: every value must be a finite number"),
        (np.full((2, 2), -0.5), "of at least 0"),
    ],
)
def test_what_is_no_confusion_is_refused(confusion, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        by_confusion(confusion, 1, seed=0)


def test_confusion_is_the_mean_probability_over_the_images_of_a_class():
    chances = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05], [0.2, 0.6, 0.2]])
    found = confusion_of(np.log(chances).astype(np.float32) + 7, np.array([0, 2, 0, 1]))
    assert np.allclose(found, [[0.7, 0.15, 0.15], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        (np.zeros((2, 2)), [0, 0], "labels: class 1 has no image"),
        (np.zeros((0, 2)), np.zeros(0, int), "labels: class 0 has no image"),
        (np.zeros((2, 2)), [0, 2], "labels: they go from 0 to 2, the logits are of 2 classes"),
        (np.zeros((2, 2)), [-1, 1], "labels: they go from -1 to 1"),
        (np.zeros((2, 2)), [0], r"labels: \(1,\) of them for logits \(2, 2\)"),
        (np.full((2, 2), np.inf), [0, 1], "logits: some are not numbers"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        confusion_of(logits, np.asarray(labels))
