"""Rotation and permutation together: recovered where they are known, and never worse."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.matching import match
from dl2pa.assignment.rotation import procrustes, rotate_and_match
from dl2pa.assignment.statistics import EpochMean
from dl2pa.prototypes.closed_form import simplex


def units(seed: int, *shape: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=shape)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def orthogonal(seed: int, dimension: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def value(means: np.ndarray, prototypes: np.ndarray, sigma: np.ndarray, rotation: np.ndarray) -> float:
    return float((means * (prototypes[sigma] @ rotation.T)).sum())


SEEN = np.ones(12, dtype=bool)


def test_procrustes_finds_the_rotation_that_was_applied() -> None:
    targets, rotation = units(0, 20, 5), orthogonal(1, 5)
    np.testing.assert_allclose(procrustes(targets @ rotation.T, targets), rotation, atol=1e-12)


def test_no_other_orthogonal_map_is_better() -> None:
    means, targets = units(2, 9, 4), units(3, 9, 4)
    best = (means * (targets @ procrustes(means, targets).T)).sum()
    others = [(means * (targets @ orthogonal(seed, 4).T)).sum() for seed in range(200)]
    assert max(others) < best
    # ... and the maximum is the nuclear norm of the correlation.
    assert best == pytest.approx(np.linalg.svd(means.T @ targets, compute_uv=False).sum())


def test_a_small_rotation_and_a_permutation_are_found_again() -> None:
    prototypes, permutation = units(4, 12, 5), np.random.default_rng(5).permutation(12)
    skew = np.random.default_rng(6).normal(size=(5, 5)) * 0.05
    rotation = procrustes(np.eye(5) + skew - skew.T, np.eye(5))
    means = prototypes[permutation] @ rotation.T
    sigma, found = rotate_and_match(means, prototypes, np.arange(12), SEEN)
    np.testing.assert_array_equal(sigma, permutation)
    np.testing.assert_allclose(found, rotation, atol=1e-6)


def test_the_value_never_falls_in_the_alternation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from inside, after every half, from starts of every kind."""
    rounds = 0
    for seed in range(20):
        means, prototypes = units(seed, 12, 4), units(100 + seed, 12, 4)
        state = [np.random.default_rng(seed).permutation(12), np.eye(4)]
        first, values = state[0], [value(means, prototypes, *state)]

        def matched(score: np.ndarray, *more: np.ndarray, told: list = values, at: list = state) -> np.ndarray:
            at[0] = match(score, *more)
            told.append(float(score[np.arange(12), at[0]].sum()))
            return at[0]

        def turned(left: np.ndarray, right: np.ndarray, told: list = values, at: list = state) -> np.ndarray:
            at[1] = procrustes(left, right)
            told.append(float((left * (right @ at[1].T)).sum()))
            return at[1]

        with monkeypatch.context() as patch:
            patch.setattr("dl2pa.assignment.rotation.match", matched)
            patch.setattr("dl2pa.assignment.rotation.procrustes", turned)
            sigma, rotation = rotate_and_match(means, prototypes, first, SEEN)
        assert all(later > earlier - 1e-9 for earlier, later in itertools.pairwise(values))
        assert value(means, prototypes, sigma, rotation) == pytest.approx(values[-1], abs=1e-5)
        # Better than either half alone.
        alone = match(means @ prototypes.T, first, SEEN)
        assert values[-1] > value(means, prototypes, alone, np.eye(4))
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-12)
        rounds = max(rounds, len(values) // 2)
    assert rounds > 2


def test_unseen_classes_keep_their_prototype_and_do_not_steer_the_rotation() -> None:
    means, prototypes, seen = units(7, 12, 4), units(8, 12, 4), np.arange(12) < 9
    before = np.random.default_rng(9).permutation(12)
    sigma, rotation = rotate_and_match(means, prototypes, before, seen)
    np.testing.assert_array_equal(sigma[9:], before[9:])
    means[9:] = units(10, 3, 4)
    again, same = rotate_and_match(means, prototypes, before, seen)
    np.testing.assert_array_equal(again, sigma)
    np.testing.assert_array_equal(same, rotation)


@pytest.mark.parametrize("case", ["hysteresis", "nothing seen", "not finite"])
def test_what_moves_nothing_turns_nothing(case: str) -> None:
    means, seen = units(11, 12, 4), SEEN & (case != "nothing seen")
    if case == "not finite":
        means[3, 1] = np.nan
    sigma, rotation = rotate_and_match(means, units(12, 12, 4), np.arange(12), seen, 2.0 * (case == "hysteresis"))
    np.testing.assert_array_equal(sigma, np.arange(12))
    np.testing.assert_array_equal(rotation, np.eye(4))


def test_a_simplex_is_permuted_by_rotations() -> None:
    """Where d is C - 1, turning does all that a matching can do, and more."""
    prototypes, means = simplex(12, 11).double().numpy(), units(13, 12, 11)
    fixed = np.arange(12)
    turned = value(means, prototypes, fixed, procrustes(means, prototypes))
    best = match(means @ prototypes.T, fixed, SEEN)
    assert turned > value(means, prototypes, best, np.eye(11))


def test_the_assigner_turns_the_prototypes_and_says_how_far() -> None:
    prototypes = torch.from_numpy(units(14, 6, 2)).float()
    angle = torch.tensor(0.1)
    rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    made = Assigner(torch.arange(6), Timetable(9), EpochMean(6, 2), rotate=True)
    turned = prototypes.clone()
    made.observe(prototypes @ rotation.T, torch.zeros(6, 6), torch.eye(6))
    report = made.end_epoch(turned, 0)
    torch.testing.assert_close(turned, prototypes @ rotation.T)
    assert report["rotation_degrees"] == pytest.approx(np.degrees(0.1), rel=1e-3)
    assert report["value_before"] == pytest.approx(np.cos(0.1))
    assert report["value_after"] == pytest.approx(1)
    assert report["moved"] == 0
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(6))
    # The next epoch finds nothing to gain.
    made.observe(F.normalize(turned, dim=1), torch.zeros(6, 6), torch.eye(6))
    before = turned.clone()
    assert made.end_epoch(turned, 1)["rotation_degrees"] == pytest.approx(0, abs=1e-2)
    torch.testing.assert_close(turned, before)
