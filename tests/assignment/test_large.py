"""The solver for many classes against scipy, its certificate over all pairs, and the memory that it takes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dl2pa.assignment import large, rotation, statistics
from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.large import TOLERANCE, Pairs, Product, Table, solve
from dl2pa.assignment.matching import match
from dl2pa.assignment.statistics import build_statistic

CLASSES, DIMENSION = 300, 24


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


PROTOTYPES = units(0, CLASSES, DIMENSION)
OWNED = PROTOTYPES[torch.randperm(CLASSES, generator=torch.Generator().manual_seed(1))]
NOISE = units(2, CLASSES, DIMENSION)
DECAY = torch.arange(1, DIMENSION + 1).float() ** -1
MEANS = {
    "random": NOISE,
    "all alike": F.normalize(3 * units(3, 1, DIMENSION) + NOISE * DECAY / DECAY.norm() * DIMENSION**0.5, dim=1),
    "few directions": F.normalize(NOISE[:, :3] @ units(4, 3, DIMENSION), dim=1),
    "superclasses": F.normalize(units(5, 15, DIMENSION).repeat(20, 1) + 0.3 * NOISE, dim=1),
    "on the way": F.normalize(0.6 * OWNED + NOISE, dim=1),
    "half there": F.normalize(torch.where(torch.arange(CLASSES)[:, None] % 2 == 0, 3 * OWNED, 0) + NOISE, dim=1),
    "near": F.normalize(3 * OWNED + NOISE, dim=1),
    "equal means": units(6, 30, DIMENSION).repeat(10, 1),
    "one mean": units(7, 1, DIMENSION).repeat(CLASSES, 1),
}
OLD = np.random.default_rng(8).permutation(CLASSES)


def table(matrix: Tensor) -> Table:
    every = torch.arange(len(matrix))
    return Table(matrix, every, every)


def best(score: Tensor) -> float:
    return float(score.numpy()[linear_sum_assignment(score.numpy(), maximize=True)].mean())


def check(pairs: Pairs, score: Tensor, old: np.ndarray = OLD) -> np.ndarray:
    """The value is scipy's, and the prices prove it."""
    found = solve(pairs, old)
    assert sorted(found.chosen) == list(range(len(score)))
    value = float(score[torch.arange(len(score)), torch.from_numpy(found.chosen)].double().mean())
    scale = max(1.0, float(score.abs().max()))
    assert value == pytest.approx(best(score.double()), abs=1.1e-7 * scale)
    prices = torch.from_numpy(found.prices)
    bound = float(prices.mean() + (score.double() - prices).max(dim=1).values.mean())
    assert found.gap <= TOLERANCE
    assert bound - value == pytest.approx(found.gap, abs=1e-7 * scale)  # products in blocks round otherwise
    return found.chosen


@pytest.mark.parametrize("kind", MEANS)
def test_the_value_is_scipys_and_the_prices_prove_it(kind: str) -> None:
    check(Product(MEANS[kind], PROTOTYPES), MEANS[kind] @ PROTOTYPES.T)


@pytest.mark.parametrize("kind", MEANS)
def test_with_few_candidates_and_small_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have to be found on the way, guesses are bad, and no block holds all rows."""
    for name, value in (("WANTED", 2), ("MORE", 1), ("RARE", 0), ("SAMPLE", 10), ("BLOCK", 7 * CLASSES)):
        monkeypatch.setattr(large, name, value)
    check(Product(MEANS[kind], PROTOTYPES), MEANS[kind] @ PROTOTYPES.T)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("kind", ["any", "whole numbers", "zero or one", "constant", "by column", "by row"])
def test_tables_with_and_without_ties(kind: str, scale: float) -> None:
    random = torch.Generator().manual_seed(9)
    matrix = torch.rand(200, 200, generator=random)
    matrix = {
        "any": matrix,
        "whole numbers": (10 * matrix).floor(),
        "zero or one": (matrix > 0.99).float(),
        "constant": torch.ones(200, 200),
        "by column": matrix[:1].expand(200, 200).contiguous(),
        "by row": matrix[:, :1].expand(200, 200).contiguous(),
    }[kind] * scale
    check(table(matrix), matrix, np.random.default_rng(0).permutation(200))


@pytest.mark.parametrize("size", [1, 2, 3, 19, 20, 21])
def test_sizes_below_the_number_of_candidates(size: int) -> None:
    score = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    check(table(score), score, np.arange(size))


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    look = large._look

    def counting(*arguments: object, **more: object) -> object:
        counted.append(1)
        return look(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(large, "_look", counting)
    return counted


def test_near_the_prototypes_one_pass_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = passes(monkeypatch)
    chosen = solve(Product(MEANS["near"], PROTOTYPES), OLD).chosen
    assert len(counted) == 1
    assert torch.equal(PROTOTYPES[torch.from_numpy(chosen)], OWNED)
    again = solve(Product(F.normalize(MEANS["near"] + 0.1 * NOISE, dim=1), PROTOTYPES), chosen).chosen
    assert len(counted) == 2
    np.testing.assert_array_equal(again, chosen)


def test_an_old_matching_that_is_as_good_as_any_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = passes(monkeypatch)
    np.testing.assert_array_equal(solve(Product(MEANS["one mean"], PROTOTYPES), OLD).chosen, OLD)
    assert len(counted) == 1


# -- as ``match`` and the assigner use it


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (large, statistics, rotation):
        monkeypatch.setattr(module, "LARGE", 2)


def test_unseen_classes_keep_theirs_and_are_not_read() -> None:
    seen = np.random.default_rng(10).random(CLASSES) < 0.8
    means = MEANS["on the way"].clone()
    means[torch.from_numpy(~seen)] = torch.nan
    score = (means @ PROTOTYPES.T).double().numpy()
    matched = match(Product(means, PROTOTYPES), OLD, seen)
    np.testing.assert_array_equal(matched[~seen], OLD[~seen])
    assert sorted(matched) == list(range(CLASSES))
    expected = match(score, OLD, seen)
    assert score[seen, matched[seen]].mean() == pytest.approx(score[seen, expected[seen]].mean(), abs=1.1e-7)


def test_hysteresis_ties_and_scores_that_are_not_finite() -> None:
    seen = np.ones(CLASSES, dtype=bool)
    cloud = Product(MEANS["random"], PROTOTYPES)
    gain = best((MEANS["random"] @ PROTOTYPES.T).double()) - cloud[np.arange(CLASSES), OLD].mean()
    assert (match(cloud, OLD, seen, 0.99 * gain) != OLD).any()
    np.testing.assert_array_equal(match(cloud, OLD, seen, 1.01 * gain), OLD)
    np.testing.assert_array_equal(match(Product(MEANS["one mean"], PROTOTYPES), OLD, seen), OLD)
    np.testing.assert_array_equal(match(cloud, OLD, ~seen), OLD)
    for bad in (torch.nan, torch.inf):
        broken = MEANS["random"].clone()
        broken[3, 4] = bad
        np.testing.assert_array_equal(match(Product(broken, PROTOTYPES), OLD, seen), OLD)
        np.testing.assert_array_equal(match(table(broken @ PROTOTYPES.T), OLD, seen), OLD)


@pytest.mark.parametrize(
    ("name", "rotate"),
    [*((name, False) for name in ("queue", "ema", "epoch_mean", "loss_matrix")), ("ema", True), ("epoch_mean", True)],
)
def test_the_assigner_decides_the_same(name: str, rotate: bool, request: pytest.FixtureRequest) -> None:
    """With every statistic, and classes unseen: the same assignment and report as with scipy."""
    told = []
    for way in ("scipy", "large"):
        if way == "large":
            request.getfixturevalue("everything_is_large")
        statistic = build_statistic(name, 40, 6, 0.9, torch.Generator().manual_seed(11))
        made = Assigner(
            torch.randperm(40, generator=torch.Generator().manual_seed(12)), Timetable(9), statistic, 0.0, rotate
        )
        prototypes = units(13, 40, 6)
        for epoch in range(3):
            features, labels = units(14 + epoch, 90, 6), torch.arange(90) % 35
            cost = (1 - features @ prototypes[made.sigma].T).square()
            made.observe(features, cost, F.one_hot(labels, 40).float())
            report = made.end_epoch(prototypes, epoch)
            told.append((way, made.sigma.tolist(), report, prototypes.clone()))
    for (_, sigma, report, prototypes), (_, other, again, turned) in zip(told[:3], told[3:], strict=True):
        assert sigma == other
        assert again == pytest.approx(report, abs=1e-6)
        torch.testing.assert_close(turned, prototypes)
    assert told[0][2]["moved"] > 0


def test_the_loss_matrix_is_sorted_into_prototypes_only_where_it_is_read(everything_is_large: None) -> None:
    statistic = build_statistic("loss_matrix", 30, 4, 0.9, torch.Generator())
    sigma = torch.randperm(30, generator=torch.Generator().manual_seed(15))
    statistic.observe(units(16, 60, 4), torch.rand(60, 30), F.one_hot(torch.arange(60) % 30, 30).float())
    score = statistic.score(units(0, 30, 4), sigma)
    pairs = statistic.matchable(units(0, 30, 4), sigma)
    assert isinstance(pairs, Table)
    torch.testing.assert_close(pairs.rows(torch.arange(30)), score)
    torch.testing.assert_close(pairs.columns(torch.tensor([3, 1])), score[:, [3, 1]])
    part = pairs.part(np.array([4, 2]), np.array([7, 5, 6]))
    torch.testing.assert_close(part.rows(torch.tensor([1, 0])), score[[2, 4]][:, [7, 5, 6]])
    np.testing.assert_allclose(pairs[np.array([1, 2]), np.array([5, 9])], score[[1, 2], [5, 9]])


MEMORY = """
import resource, sys, torch, numpy as np, torch.nn.functional as F
from dl2pa.assignment import large
large.BLOCK = 1 << 20
def units(seed, size):
    return F.normalize(torch.randn(size, 16, generator=torch.Generator().manual_seed(seed)), dim=1)
def solved(size):
    large.solve(large.Product(units(0, size), units(1, size)), np.arange(size))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(solved(500), solved(4000))
"""


def test_memory_does_not_grow_with_the_square_of_the_classes() -> None:
    """4000 classes have 122 MB of scores in double precision; MB of the whole process, before and after."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    before, after = map(float, told.split())
    assert after - before < 61


def test_from_so_many_classes_on_no_score_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    statistic = build_statistic("epoch_mean", large.LARGE, 3, 0.9, torch.Generator())
    monkeypatch.setattr(statistic, "score", None)
    assert isinstance(statistic.matchable(units(0, large.LARGE, 3), torch.arange(large.LARGE)), Product)
