"""Optimised kinds in blocks of rows: the same prototypes, and memory that does not grow with the square of C."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dl2pa.prototypes import energy
from dl2pa.prototypes.build import build
from dl2pa.prototypes.draws import generator, random_points
from dl2pa.prototypes.equiangular import excess
from dl2pa.prototypes.geometry import measure
from dl2pa.prototypes.optimised import separated
from dl2pa.prototypes.separation import WordRanking, separation, softmax_separation

Objective = Callable[[energy.Points], tuple[float, energy.Points]]


@pytest.mark.parametrize("entries", [60, 61, 60 * 7, 60 * 59])
@pytest.mark.parametrize(
    "objective",
    [
        lambda points: energy.smooth_maximum_cosine(points, 4.0),
        lambda points: energy.smooth_maximum_cosine(points, 4.0**8),
        lambda points: excess(points, 0.2),
        lambda points: excess(points, 0.99),
    ],
)
def test_an_objective_and_its_gradient_do_not_depend_on_the_blocks(
    objective: Objective, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 3 * random_points(60, 5, generator(0)).numpy()
    value, gradient = objective(points)
    monkeypatch.setattr(energy, "_ENTRIES", entries)
    again, slope = objective(points)
    assert again == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(slope, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", ["separation", "softmax_separation"])
def test_prototypes_do_not_depend_on_the_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(40, 4, kind, 1, steps=30)
    monkeypatch.setattr(energy, "_ENTRIES", 40 * 9)
    torch.testing.assert_close(build(40, 4, kind, 1, steps=30), whole)


def test_prototypes_in_the_order_of_words_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(100, 4, "separation_semantic", 1, steps=30, words="cifar100")
    monkeypatch.setattr(energy, "_ENTRIES", 100 * 9)
    torch.testing.assert_close(build(100, 4, "separation_semantic", 1, steps=30, words="cifar100"), whole)


def test_uniform_reaches_the_same_optimum_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The regular pentagon."""
    monkeypatch.setattr(energy, "_ENTRIES", 5 * 2)
    assert measure(build(5, 2, "uniform", 0)).uniformity == pytest.approx(-3.44572, abs=1e-5)


@pytest.mark.parametrize(
    "made",
    [
        lambda size: separation(size, 4, seed=0, steps=2, lr=0.1),
        lambda size: softmax_separation(size, 4, seed=0, steps=2, lr=0.1),
        lambda size: energy.descend(random_points(size, 4, generator(0)).numpy(), 4.0, 1e-3, 3),
        lambda size: WordRanking(random_points(size, 3, generator(1)).numpy(), 1.0).step(
            random_points(size, 4, generator(0)).numpy(), 0.1
        ),
        lambda size: excess(random_points(size, 4, generator(0)).numpy(), 0.5),
    ],
)
def test_memory_is_that_of_a_block(made: Callable[[int], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 points have cosines of 32 MB; L-BFGS takes another 1.6 MB."""
    monkeypatch.setattr(energy, "_ENTRIES", 1 << 16)
    made(10)  # imports
    tracemalloc.start()
    try:
        made(2000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6


def test_the_search_for_the_lowest_maximum_cosine_is_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descents are replaced: what is left is what the search itself holds, and the start that it takes."""
    monkeypatch.setattr("dl2pa.prototypes.optimised.descend", lambda points, *_, **__: points)
    whole = separated(30, 3, seed=0)
    monkeypatch.setattr(energy, "_ENTRIES", 30 * 7)
    assert torch.equal(separated(30, 3, seed=0), whole)
    monkeypatch.setattr(energy, "_ENTRIES", 1 << 16)
    tracemalloc.start()
    try:
        separated(2000, 4, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6
