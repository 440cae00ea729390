"""Optimised kinds, against known optima and against what the published estimators reach."""

import math

import numpy as np
import pytest
import torch

from dl2pa.prototypes.build import build
from dl2pa.prototypes.energy import smooth_maximum_cosine
from dl2pa.prototypes.geometry import measure
from dl2pa.prototypes.optimised import uniform_readme


def test_energy_is_the_uniformity_loss_and_its_gradient() -> None:
    raw = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(raw, dim=1)
    loss = torch.nn.functional.pdist(unit).pow(2).mul(-2).exp().mean().log()
    loss.backward()
    value, gradient = smooth_maximum_cosine(raw.detach().numpy(), 4.0)
    assert 4 * (value - 1) == pytest.approx(loss.item(), abs=1e-12)
    np.testing.assert_allclose(4 * gradient, raw.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize(("dimension", "max_cosine"), [(10, 0.64), (25, 0.39), (50, 0.23), (100, 0.17)])
def test_readme_command_stops_where_the_published_one_does(dimension: int, max_cosine: float) -> None:
    found = measure(build(100, dimension, "uniform_readme", seed=100))
    assert found.max_cosine == pytest.approx(max_cosine, abs=0.03)


def test_readme_estimator_with_a_large_lr_reaches_the_optimum() -> None:
    found = measure(build(100, 50, "uniform_readme", seed=100, lr=10.0))
    assert found.max_cosine == pytest.approx(0, abs=1e-3)
    assert found.uniformity == pytest.approx(-4.00997, abs=1e-5)


def test_readme_estimator_is_plain_sgd_on_the_stated_loss() -> None:
    """Against autograd and torch's SGD: four prototypes in one batch, so the order within it cannot matter."""
    source = torch.Generator().manual_seed(5)
    start = torch.rand(3, 4, generator=source) * 2 - 1
    columns = torch.nn.Parameter(start.double() / start.double().norm(dim=0))
    optimiser = torch.optim.SGD([columns], lr=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        unit = torch.nn.functional.normalize(columns, dim=0)
        torch.nn.functional.pdist(unit.T).pow(2).mul(-2).exp().mean().log().backward()
        optimiser.step()
    expected = torch.nn.functional.normalize(columns.detach(), dim=0).T
    found = uniform_readme(4, 3, seed=5, steps=20, lr=0.1, batch_size=100)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_batches_see_only_their_own_pairs() -> None:
    """Two by two, every step makes its pair antipodal and never sees the others; a batch of one is left out."""
    together = measure(build(5, 2, "uniform_readme", seed=0, steps=300, batch_size=5, lr=1.0))
    apart = measure(build(5, 2, "uniform_readme", seed=0, steps=300, batch_size=2, lr=1.0))
    assert together.max_cosine == pytest.approx(math.cos(2 * math.pi / 5), abs=1e-3)
    assert math.isfinite(apart.uniformity)
    assert apart.max_cosine > together.max_cosine + 0.05


@pytest.mark.parametrize(
    ("num_classes", "dimension", "uniformity", "max_cosine"),
    [
        (100, 50, -4.00997, 0.0),
        (100, 100, -4.04040, -1 / 99),
        (200, 100, -4.00495, 0.0),
        (10, 64, -4.44444, -1 / 9),
        (5, 2, -3.44572, 0.30902),
    ],
)
def test_uniform_reaches_the_known_optimum(
    num_classes: int, dimension: int, uniformity: float, max_cosine: float
) -> None:
    found = measure(build(num_classes, dimension, "uniform", seed=0))
    assert found.uniformity == pytest.approx(uniformity, abs=1e-5)
    assert found.max_cosine == pytest.approx(max_cosine, abs=1e-3)


@pytest.mark.parametrize(("num_classes", "dimension", "published"), [(100, 10, -3.4594), (100, 25, -3.8710)])
def test_uniform_is_as_good_as_the_best_published_descent(num_classes: int, dimension: int, published: float) -> None:
    assert measure(build(num_classes, dimension, "uniform", seed=0)).uniformity < published + 2e-3


def test_a_smaller_tolerance_converges_further() -> None:
    loose, tight = (measure(build(100, 50, "uniform", seed=0, tolerance=t)).max_cosine for t in (1e-4, 1e-12))
    assert loose > 10 * abs(tight)


@pytest.mark.parametrize(
    ("num_classes", "dimension", "max_cosine"),
    [
        (2, 1, -1.0),
        (3, 2, -0.5),
        (5, 2, math.cos(math.radians(72))),
        (10, 3, math.cos(math.radians(66.1468220))),  # Sloane's tables of spherical codes, as are the next two
        (12, 3, 1 / math.sqrt(5)),
        (10, 4, 1 / 6),
        (24, 4, 0.5),
        (16, 5, 0.2),
    ],
)
def test_exact_finds_the_known_best(num_classes: int, dimension: int, max_cosine: float) -> None:
    assert measure(build(num_classes, dimension, "exact", seed=0)).max_cosine == pytest.approx(max_cosine, abs=2e-4)


@pytest.mark.parametrize(("num_classes", "dimension", "hpn"), [(100, 10, 0.377), (100, 25, 0.134), (200, 25, 0.216)])
def test_exact_beats_ten_thousand_steps_of_hpn(num_classes: int, dimension: int, hpn: float) -> None:
    found = measure(build(num_classes, dimension, "exact", seed=0))
    assert found.bound.value < found.max_cosine < hpn - 0.02


@pytest.mark.parametrize(("num_classes", "dimension"), [(10, 6), (10, 8), (100, 60), (1000, 512)])
def test_exact_between_simplex_and_cross_polytope(num_classes: int, dimension: int) -> None:
    """Maximum cosine 0, the whole space used, and a better uniformity than as many of the points +-e_i."""
    points = build(num_classes, dimension, "exact", seed=0)
    found = measure(points)
    assert found.max_cosine == pytest.approx(0, abs=1e-6)
    assert int(torch.linalg.matrix_rank(points)) == dimension
    assert found.uniformity < measure(build(num_classes, dimension, "orthoplex", seed=0)).uniformity - 1e-5


@pytest.mark.slow
def test_uniform_at_imagenet_size() -> None:
    found = measure(build(1000, 512, "uniform", seed=0))
    assert found.uniformity == pytest.approx(-4.00105, abs=1e-5)
    assert found.max_cosine < 0.02
