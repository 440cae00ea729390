"""Similar classes on near prototypes: against brute force, and where the best arrangement is known."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composing import compose_config

from dl2pa import relations
from dl2pa.assignment.assigner import Timetable
from dl2pa.assignment.quadratic import Quadratic, _exchange, arrange, arranged, value
from dl2pa.assignment.statistics import Confusion, EpochMean
from dl2pa.model import build_model
from dl2pa.prototypes.closed_form import simplex
from dl2pa.validate import validate


def units(seed: int, *shape: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=shape)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def symmetric(seed: int, size: int) -> np.ndarray:
    square = np.random.default_rng(seed).uniform(size=(size, size))
    return square + square.T


def total(similarity: np.ndarray, prototypes: np.ndarray, sigma: np.ndarray) -> float:
    """The objective as it is written."""
    pairs = itertools.permutations(range(len(sigma)), 2)
    return sum(similarity[c, d] * float(prototypes[sigma[c]] @ prototypes[sigma[d]]) for c, d in pairs)


ALL = np.ones(6, dtype=bool)


def test_near_the_best_of_all_permutations_and_often_it() -> None:
    found_best = 0
    for seed in range(20):
        similarity, prototypes = symmetric(seed, 6), units(seed, 6, 3)
        found = arrange(similarity, prototypes, np.random.default_rng(seed).permutation(6), ALL, seed=0)
        values = [total(similarity, prototypes, np.array(way)) for way in itertools.permutations(range(6))]
        reached = total(similarity, prototypes, found)
        assert (np.array(values) > reached + 1e-9).mean() < 0.02  # among the best of 720
        found_best += reached == pytest.approx(max(values))
    assert found_best >= 15


def test_the_value_is_the_objective_per_class() -> None:
    similarity, prototypes, sigma = symmetric(1, 6), units(2, 6, 3), np.random.default_rng(3).permutation(6)
    assert value(similarity, prototypes, sigma, ALL) == pytest.approx(total(similarity, prototypes, sigma) / 6)


def test_exchanges_are_those_of_the_whole_sum() -> None:
    """The gains that are carried along say what the objective says, evaluated anew for each pair, until none gains."""
    similarity, near = symmetric(7, 25), units(8, 25, 4) @ units(8, 25, 4).T
    np.fill_diagonal(similarity, 0)
    np.fill_diagonal(near, 0)

    def reached(chosen: np.ndarray) -> float:
        return float((similarity * near[np.ix_(chosen, chosen)]).sum())

    def exchanged(chosen: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
        other = chosen.copy()
        other[list(pair)] = chosen[list(pair[::-1])]
        return other

    best = np.random.default_rng(9).permutation(25)
    found, count = _exchange(similarity, near, best), 0
    pairs = list(itertools.combinations(range(25), 2))
    while reached(other := max((exchanged(best, pair) for pair in pairs), key=reached)) > reached(best) + 1e-6:
        best, count = other, count + 1
    assert count > 5
    np.testing.assert_array_equal(found, best)


def test_a_planted_arrangement_is_found_again() -> None:
    """Similarities are the cosines of the prototypes under a hidden permutation."""
    prototypes, hidden = units(7, 40, 6), np.random.default_rng(8).permutation(40)
    similarity = prototypes[hidden] @ prototypes[hidden].T
    found = arrange(similarity, prototypes, np.arange(40), np.ones(40, dtype=bool), seed=0)
    np.testing.assert_array_equal(found, hidden)


def test_superclasses_get_clusters_of_prototypes() -> None:
    centres = np.eye(5).repeat(4, axis=0)
    prototypes = centres + 0.1 * units(9, 20, 5)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    group = np.random.default_rng(10).permutation(np.arange(5).repeat(4))
    same = torch.from_numpy((group[:, None] == group).astype(float))
    sigma = arranged(torch.arange(20), torch.from_numpy(prototypes).float(), same, seed=0).numpy()
    for one in range(5):
        assert len({int(p) // 4 for p in sigma[group == one]}) == 1


def test_it_is_a_function_of_its_arguments() -> None:
    similarity, prototypes, before = symmetric(11, 30), units(12, 30, 5), np.arange(30)
    seen = np.ones(30, dtype=bool)
    np.random.seed(0)
    first = arrange(similarity, prototypes, before, seen, seed=3)
    np.random.seed(1)
    np.testing.assert_array_equal(arrange(similarity, prototypes, before, seen, seed=3), first)
    assert before.tolist() == list(range(30))


def test_later_only_what_gains_is_exchanged() -> None:
    """From a good arrangement few classes move, where a search from elsewhere moves nearly all."""
    prototypes, seen = units(19, 30, 4), np.ones(30, dtype=bool)
    similarity = prototypes @ prototypes.T + 0.02 * symmetric(20, 30)
    before = np.arange(30)
    before[[3, 4]] = [4, 3]
    found = arrange(similarity, prototypes, before, seen, 0, anew=False)
    assert value(similarity, prototypes, found, seen) > value(similarity, prototypes, before, seen)
    assert 2 <= (found != before).sum() < 10
    # A worse start ends at another maximum: exchanges are local.
    shuffled = np.random.default_rng(21).permutation(30)
    local = arrange(similarity, prototypes, shuffled, seen, 0, anew=False)
    reached = value(similarity, prototypes, local, seen)
    assert value(similarity, prototypes, shuffled, seen) < reached
    assert reached < value(similarity, prototypes, arrange(similarity, prototypes, shuffled, seen, 0), seen)


def test_the_assigner_searches_anew_until_a_class_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def recorded(*arguments: Any) -> np.ndarray:
        told.append(arguments[-1])
        return arrange(*arguments)

    monkeypatch.setattr("dl2pa.assignment.quadratic.arrange", recorded)
    prototypes = torch.from_numpy(units(22, 8, 3)).float()
    made = Quadratic(torch.arange(8), Timetable(9), EpochMean(8, 3), seed=0)
    for epoch, seed in enumerate((22, 23, 24)):  # in the first epoch the classes lie on their prototypes
        made.observe(torch.from_numpy(units(seed, 8, 3)).float(), torch.zeros(8, 8), torch.eye(8))
        made.end_epoch(prototypes, epoch)
    assert told == [True, True, False]


@pytest.mark.parametrize("similarity", ["tree", "words"])
def test_what_is_known_before_training_is_arranged_once_and_stays(
    monkeypatch: pytest.MonkeyPatch, similarity: str
) -> None:
    group = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    answers = {
        "superclasses": lambda source: group.numpy(),
        "word_vectors": lambda source, num_classes: 3 * np.eye(5)[group.numpy()],
    }
    for function, answer in answers.items():
        monkeypatch.setattr(relations, function, answer)
    known = ["dataset=cifar100", "dataset.num_classes=10"] if similarity == "tree" else ["dataset=digits"]
    words = [*known, "backbone=small", "assignment=related", f"assignment.similarity={similarity}"]
    cfg = compose_config(*words)
    validate(cfg)
    # Five pairs of near prototypes: partners get a pair each.
    prototypes = F.normalize(torch.eye(5).repeat(2, 1) + torch.from_numpy(0.1 * units(25, 10, 5)).float(), dim=1)
    head = build_model(cfg, prototypes, torch.float32).head
    sigma = head.assignment()
    assert sigma is not None
    assert torch.equal(sigma[:5] % 5, sigma[5:] % 5)
    assert sigma.tolist() != list(range(10))
    assert not head.never_moves()
    other = compose_config(*words, "assignment.seed=5")
    second = build_model(other, prototypes, torch.float32).head.assignment()
    assert second is not None
    assert torch.equal(second[:5] % 5, second[5:] % 5)


def test_what_does_not_gain_moves_nothing() -> None:
    similarity, prototypes, seen = symmetric(13, 8), units(14, 8, 3), np.ones(8, dtype=bool)
    before = np.random.default_rng(15).permutation(8)
    found = arrange(similarity, prototypes, before, seen, 0)
    gain = value(similarity, prototypes, found, seen) - value(similarity, prototypes, before, seen)
    assert gain > 0
    np.testing.assert_array_equal(arrange(similarity, prototypes, before, seen, 0, hysteresis=0.99 * gain), found)
    np.testing.assert_array_equal(arrange(similarity, prototypes, before, seen, 0, hysteresis=1.01 * gain), before)
    np.testing.assert_array_equal(arrange(similarity, prototypes, found, seen, 0), found)
    np.testing.assert_array_equal(arrange(np.zeros((8, 8)), prototypes, before, seen, 0), before)
    similarity[1, 2] = np.nan
    np.testing.assert_array_equal(arrange(similarity, prototypes, before, seen, 0), before)


def test_rounding_neither_moves_classes_nor_goes_round_in_circles() -> None:
    """On a simplex all arrangements are equal; a similarity in float32 is not quite symmetric."""
    prototypes, seen = simplex(10, 9).numpy(), np.ones(10, dtype=bool)
    for seed in range(5):
        similarity = symmetric(seed, 10)
        similarity += 1e-6 * np.random.default_rng(seed).normal(size=(10, 10))
        np.testing.assert_array_equal(arrange(similarity, prototypes, np.arange(10), seen, 0), np.arange(10))
        # Far from a simplex the polish ends, too.
        arrange(similarity, units(seed, 10, 3), np.arange(10), seen, 0)


def test_unseen_classes_keep_their_prototype() -> None:
    similarity, prototypes, seen = symmetric(16, 8), units(17, 8, 3), np.arange(8) % 3 > 0
    before = np.random.default_rng(18).permutation(8)
    similarity[~seen] = similarity[:, ~seen] = np.nan  # never read
    found = arrange(similarity, prototypes, before, seen, 0)
    np.testing.assert_array_equal(found[~seen], before[~seen])
    assert sorted(found) == list(range(8))
    assert (found != before).any()


@pytest.mark.parametrize("kind", ["means", "confusion"])
def test_the_assigner_arranges_by_what_it_has_seen(kind: str) -> None:
    """Classes 0 and 1, and 2 and 3, are alike; of four prototypes two are near each other, and so are the others."""
    prototypes = F.normalize(torch.tensor([[1, 0.1], [-1, 0.1], [1, -0.1], [-1, -0.1]]), dim=1)
    made = Quadratic(torch.arange(4), Timetable(9), EpochMean(4, 2) if kind == "means" else Confusion(4), seed=0)
    labels = torch.arange(4).repeat(2)
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])[labels]
    taken_for = torch.tensor([0, 1, 2, 3, 1, 0, 3, 2])
    made.observe(features, 1 - torch.eye(4)[taken_for], torch.eye(4)[labels])
    report = made.end_epoch(prototypes, 0)
    assert {frozenset(made.sigma[:2].tolist()), frozenset(made.sigma[2:].tolist())} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    assert report["value_after"] > report["value_before"]
    assert report["moved"] == (made.sigma != torch.arange(4)).sum()
