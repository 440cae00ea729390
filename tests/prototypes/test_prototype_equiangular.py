"""Equiangular basis vectors: the bound holds, and what cannot be had is refused with what can."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dl2pa.errors import UserError
from dl2pa.prototypes.bounds import welch_bound
from dl2pa.prototypes.build import build
from dl2pa.prototypes.equiangular import excess


def largest(points: torch.Tensor) -> float:
    cosines = (points.double() @ points.double().T).abs()
    return float(cosines.fill_diagonal_(0).max())


@pytest.mark.parametrize(("num_classes", "dimension", "tau"), [(100, 50, 0.111), (200, 100, 0.08), (10, 3, 0.71)])
def test_every_pair_is_within_tau(num_classes: int, dimension: int, tau: float) -> None:
    points = build(num_classes, dimension, "equiangular", 1, tau=tau)
    assert largest(points) <= tau + 1e-4


@pytest.mark.parametrize(
    ("num_classes", "dimension", "reached"),
    [
        (6, 3, 1 / np.sqrt(5)),  # the six diagonals of the icosahedron, and
        (28, 7, 1 / 3),  # 28 equiangular lines: both meet the Welch bound (Lemmens and Seidel 1973)
        (5, 4, 1 / 4),  # simplex
        (100, 50, 0.112),
        (200, 100, 0.079),
    ],
)
def test_auto_comes_near_what_can_be_had(num_classes: int, dimension: int, reached: float) -> None:
    points = build(num_classes, dimension, "equiangular", 0)
    assert welch_bound(num_classes, dimension) - 1e-6 <= largest(points) <= 1.02 * reached


@pytest.mark.slow
def test_auto_is_as_good_as_the_published_files() -> None:
    assert largest(build(1000, 500, "equiangular", 0)) <= 0.035


@pytest.mark.parametrize("dimension", [10, 13])
def test_a_basis_is_equiangular_at_zero(dimension: int) -> None:
    assert largest(build(10, dimension, "equiangular", 0)) == pytest.approx(0, abs=1e-6)


def test_a_tau_below_the_bound_or_not_reached_is_an_error() -> None:
    with pytest.raises(UserError, match=r"tau=0\.1: .* no less than 0\.10051, the Welch bound"):
        build(100, 50, "equiangular", 0, tau=0.1)
    with pytest.raises(UserError, match=r"tau=0\.102: not reached .* but 0\.1[1-3]\d\d; use tau=auto"):
        build(100, 50, "equiangular", 0, tau=0.102)


@pytest.mark.parametrize("tau", ["automatic", 0.0, 1.0, 1, None])
def test_a_tau_that_is_none(tau: object) -> None:
    with pytest.raises(UserError, match=r"tau=.*: must be auto, or above 0 and below 1"):
        build(100, 50, "equiangular", 0, tau=tau)


def test_gradient() -> None:
    raw = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    unit = F.normalize(raw, dim=1)
    cosines = (unit @ unit.T).abs() - 2 * torch.eye(7)
    loss = F.relu(cosines - 0.4).square().sum() / 2
    loss.backward()
    value, gradient = excess(raw.detach().numpy(), 0.4)
    assert value == pytest.approx(loss.item())
    np.testing.assert_allclose(gradient, raw.grad.numpy(), atol=1e-12)
