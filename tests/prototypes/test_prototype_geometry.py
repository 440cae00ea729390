"""Measures and bounds."""

import itertools
import math

import pytest
import torch

from dl2pa.prototypes import geometry
from dl2pa.prototypes.bounds import maximum_cosine_bound, welch_bound
from dl2pa.prototypes.build import build
from dl2pa.prototypes.geometry import measure


def test_three_vectors_by_hand() -> None:
    found = measure(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    assert found.max_cosine == pytest.approx(0, abs=1e-12)
    assert found.mean_max_cosine == pytest.approx(0, abs=1e-12)
    assert found.min_angle == pytest.approx(90)
    assert found.uniformity == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))


def test_row_maxima_are_averaged() -> None:
    found = measure(torch.tensor([[1.0, 0.0], [math.cos(1), math.sin(1)], [-1.0, 0.0]]))
    assert found.max_cosine == pytest.approx(math.cos(1))
    assert found.mean_max_cosine == pytest.approx((2 * math.cos(1) + math.cos(math.pi - 1)) / 3)
    assert found.min_angle == pytest.approx(math.degrees(1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = build(50, 7, "random", seed=0)
    whole = measure(points)
    monkeypatch.setattr(geometry, "_CHUNK", 8)
    chunked = measure(points)
    assert chunked.max_cosine == whole.max_cosine
    assert chunked.mean_max_cosine == pytest.approx(whole.mean_max_cosine, abs=1e-12)
    assert chunked.uniformity == pytest.approx(whole.uniformity, abs=1e-12)


@pytest.mark.parametrize(
    ("num_classes", "dimension", "value", "name"),
    [
        (4, 3, -1 / 3, "simplex"),
        (5, 4, -1 / 4, "simplex"),
        (6, 4, 0.0, "Rankin"),
        (8, 4, 0.0, "Rankin"),
        (5, 2, math.cos(2 * math.pi / 5), "polygon"),
        (12, 3, 1 / math.sqrt(5), "Levenshtein"),  # these six are the maximum cosines of figures that attain the bound:
        (27, 6, 1 / 4, "Levenshtein"),  # icosahedron, Schlaefli, 56 in E7, E8's 240 roots, Higman-Sims, McLaughlin
        (56, 7, 1 / 3, "Levenshtein"),
        (240, 8, 1 / 2, "Levenshtein"),
        (100, 22, 1 / 11, "Levenshtein"),
        (275, 22, 1 / 6, "Levenshtein"),
    ],
)
def test_bounds_are_those_of_the_known_figures(num_classes: int, dimension: int, value: float, name: str) -> None:
    bound = maximum_cosine_bound(num_classes, dimension)
    assert bound.value == pytest.approx(value, abs=1e-9)
    assert bound.name == name


def test_bound_grows_with_the_number_of_classes() -> None:
    values = [maximum_cosine_bound(num_classes, 6).value for num_classes in range(2, 500)]
    assert all(before <= after + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < 1


@pytest.mark.parametrize(("num_classes", "dimension"), [(9, 3), (13, 4), (30, 5)])
def test_no_prototypes_pass_the_bound(num_classes: int, dimension: int) -> None:
    found = measure(build(num_classes, dimension, "exact", seed=0))
    assert found.bound.value - 1e-6 < found.max_cosine < found.bound.value + 0.1


def test_welch() -> None:
    assert welch_bound(10, 10) == 0.0
    assert welch_bound(7, 3) == pytest.approx(math.sqrt(4 / 18))
    assert welch_bound(6, 3) == pytest.approx(1 / math.sqrt(5))  # the six diagonals of the icosahedron attain it
