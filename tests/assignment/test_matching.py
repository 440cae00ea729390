"""The matching against brute force over all permutations."""

import itertools

import numpy as np
import pytest

from dl2pa.assignment.matching import match

ALL = np.ones(6, dtype=bool)


def total(score: np.ndarray, assignment: np.ndarray) -> float:
    return float(score[np.arange(len(score)), assignment].sum())


@pytest.mark.parametrize("num_classes", range(1, 7))
def test_the_best_of_all_permutations(num_classes: int) -> None:
    random = np.random.default_rng(num_classes)
    for _ in range(5):
        score = random.normal(size=(num_classes, num_classes))
        before = random.permutation(num_classes)
        matched = match(score, before, ALL[:num_classes])
        best = max(itertools.permutations(range(num_classes)), key=lambda way: total(score, np.array(way)))
        assert tuple(matched) == best
        assert total(score, matched) >= total(score, before)


def test_representatives_that_are_permuted_prototypes_return_that_permutation() -> None:
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(40, 8))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    permutation = random.permutation(40)
    matched = match(prototypes[permutation] @ prototypes.T, np.arange(40), np.ones(40, dtype=bool))
    np.testing.assert_array_equal(matched, permutation)


def test_unseen_classes_keep_their_prototype_and_the_others_share_the_rest() -> None:
    random = np.random.default_rng(1)
    for _ in range(10):
        score = random.normal(size=(6, 6))
        before = random.permutation(6)
        seen = np.array([True, False, True, True, False, True])
        score[~seen] = np.nan  # never read
        matched = match(score, before, seen)
        np.testing.assert_array_equal(matched[~seen], before[~seen])
        ways = [
            way for way in itertools.permutations(range(6)) if all(way[c] == before[c] for c in np.flatnonzero(~seen))
        ]
        best = max(ways, key=lambda way: sum(score[c, way[c]] for c in np.flatnonzero(seen)))
        assert tuple(matched) == best


def test_no_class_seen_moves_nothing() -> None:
    before = np.array([2, 0, 1])
    np.testing.assert_array_equal(match(np.full((3, 3), np.nan), before, np.zeros(3, dtype=bool)), before)


@pytest.mark.parametrize(("hysteresis", "moves"), [(0.0, True), (0.29, True), (0.31, False)])
def test_hysteresis_is_compared_with_the_mean_gain_of_a_class(hysteresis: float, moves: bool) -> None:
    """Exchanging two of six classes gains 0.9 each: 0.3 for the mean class."""
    score = np.zeros((6, 6))
    score[0, 1] = score[1, 0] = 0.9
    matched = match(score, np.arange(6), ALL, hysteresis)
    assert matched.tolist() == ([1, 0, 2, 3, 4, 5] if moves else [0, 1, 2, 3, 4, 5])


def test_hysteresis_counts_seen_classes_only() -> None:
    score = np.zeros((6, 6))
    score[0, 1] = score[1, 0] = 0.9
    seen = np.arange(6) < 2
    assert match(score, np.arange(6), seen, 0.89).tolist() == [1, 0, 2, 3, 4, 5]
    assert match(score, np.arange(6), seen, 0.91).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_ties_and_rounding_do_not_move(noise: float) -> None:
    score = 0.5 + noise * np.random.default_rng(2).uniform(size=(6, 6))
    before = np.array([3, 5, 0, 1, 4, 2])
    np.testing.assert_array_equal(match(score, before, ALL), before)


def test_a_tie_among_some_classes_does_not_keep_the_others_from_moving() -> None:
    score = np.zeros((6, 6))
    score[0, 1] = score[1, 0] = 1.0
    assert match(score, np.arange(6), ALL)[:2].tolist() == [1, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_move_nothing(bad: float) -> None:
    score = np.random.default_rng(3).normal(size=(6, 6))
    score[2, 4] = bad
    before = np.array([3, 5, 0, 1, 4, 2])
    np.testing.assert_array_equal(match(score, before, ALL), before)


def test_the_old_assignment_is_left_as_it_was() -> None:
    """The caller compares old and new."""
    before = np.array([1, 0, 2, 3, 4, 5])
    for score in (np.eye(6), np.zeros((6, 6))):
        matched = match(score, before, ALL)
        matched[:] = 9
        assert before.tolist() == [1, 0, 2, 3, 4, 5]
