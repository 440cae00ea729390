"""Formulas, against the known values of their figures."""

import math

import numpy as np
import pytest
import torch

from dl2pa.prototypes.build import build
from dl2pa.prototypes.closed_form import simplex
from dl2pa.prototypes.geometry import measure


def off_diagonal(points: torch.Tensor) -> torch.Tensor:
    cosines = points.double() @ points.double().T
    return cosines[~torch.eye(len(points), dtype=torch.bool)]


def kasarla_recursion(order: int) -> np.ndarray:
    """The published recursion as it stands, [k, k + 1]."""
    if order == 1:
        return np.array([[1.0, -1.0]])
    first = np.concatenate([[1.0], np.full(order, -1.0 / order)])[None]
    below = np.sqrt(1 - 1 / order**2) * kasarla_recursion(order - 1)
    return np.concatenate([first, np.concatenate([np.zeros((order - 1, 1)), below], axis=1)])


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 40])
def test_simplex_is_the_recursion(num_classes: int) -> None:
    expected = kasarla_recursion(num_classes - 1).T
    np.testing.assert_allclose(simplex(num_classes, num_classes - 1).numpy(), expected, atol=1e-12)


def test_simplex_of_four() -> None:
    points = build(4, 3, "simplex")
    torch.testing.assert_close(points.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(off_diagonal(points), torch.full((12,), -1 / 3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert int(torch.linalg.matrix_rank(points)) == 3


def test_simplex_of_a_thousand_and_its_padding() -> None:
    points = build(1000, 1100, "simplex")
    assert float((off_diagonal(points) + 1 / 999).abs().max()) < 1e-6
    assert float(points[:, 999:].abs().max()) == 0.0


@pytest.mark.parametrize(
    ("num_classes", "dimension", "uniformity"),
    [(10, 9, -4.44444), (100, 99, -4.04040), (200, 250, -4.02010)],
)
@pytest.mark.parametrize("kind", ["simplex", "exact"])
def test_simplex_geometry(kind: str, num_classes: int, dimension: int, uniformity: float) -> None:
    found = measure(build(num_classes, dimension, kind, seed=1))
    assert found.uniformity == pytest.approx(uniformity, abs=1e-5)
    assert found.max_cosine == pytest.approx(-1 / (num_classes - 1), abs=1e-6)
    assert found.mean_max_cosine == pytest.approx(-1 / (num_classes - 1), abs=1e-6)


@pytest.mark.parametrize("kind", ["orthoplex", "exact"])
@pytest.mark.parametrize(("num_classes", "dimension", "uniformity"), [(100, 50, -4.00997), (200, 100, -4.00495)])
def test_cross_polytope(kind: str, num_classes: int, dimension: int, uniformity: float) -> None:
    points = build(num_classes, dimension, kind, seed=3)
    found = measure(points)
    assert found.uniformity == pytest.approx(uniformity, abs=1e-5)
    assert found.max_cosine == pytest.approx(0, abs=1e-6)
    assert float(off_diagonal(points).min()) == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize(("num_classes", "dimension"), [(7, 5), (9, 20), (3, 2)])
def test_incomplete_orthoplex_has_all_pairs_it_can_have(num_classes: int, dimension: int) -> None:
    cosines = off_diagonal(build(num_classes, dimension, "orthoplex", seed=0))
    antipodal = cosines < -0.5
    assert int(antipodal.sum()) == 2 * (num_classes // 2)
    torch.testing.assert_close(cosines[antipodal], torch.full_like(cosines[antipodal], -1), atol=1e-6, rtol=0)
    assert float(cosines[~antipodal].abs().max()) < 1e-6


@pytest.mark.parametrize(("num_classes", "dimension"), [(10, 10), (10, 64), (100, 128)])
def test_etf(num_classes: int, dimension: int) -> None:
    points = build(num_classes, dimension, "etf", seed=0)
    assert points.shape == (num_classes, dimension)
    assert float((off_diagonal(points) + 1 / (num_classes - 1)).abs().max()) < 1e-6


def test_permuting_a_simplex_leaves_its_cosines() -> None:
    points = simplex(20, 19)
    shuffled = points[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(shuffled @ shuffled.T, points @ points.T, atol=1e-12, rtol=0)
    other = build(20, 5, "random", seed=0)  # and only a simplex: re-assignment matters for anything else
    shuffled = other[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    assert float((shuffled @ shuffled.T - other @ other.T).abs().max()) > 0.1


def test_random_fills_the_sphere() -> None:
    points = build(4000, 3, "random", seed=0)
    assert float(points.mean(dim=0).abs().max()) < 4 / math.sqrt(3 * 4000)
    second_moment = points.T @ points / 4000
    assert float((second_moment - torch.eye(3) / 3).abs().max()) < 0.03
