"""HPN's prototypes, with and without words, and the soft maximum: published results, and each step against autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dl2pa.errors import UserError
from dl2pa.prototypes.build import build
from dl2pa.prototypes.draws import generator, random_points
from dl2pa.prototypes.geometry import measure
from dl2pa.prototypes.words import shipped

Loss = Callable[[torch.Tensor, int], torch.Tensor]


@pytest.mark.parametrize(("dimension", "max_cosine"), [(10, 0.377), (25, 0.134), (50, 0.044), (100, -0.006)])
def test_separation_reaches_what_hpn_reaches(dimension: int, max_cosine: float) -> None:
    assert measure(build(100, dimension, "separation", 0)).max_cosine == pytest.approx(max_cosine, abs=0.02)


def by_autograd(loss: Loss, num_classes: int, dimension: int, steps: int, lr: float, momentum: float) -> torch.Tensor:
    """SGD with rows normalised inside the cosines and after each step; one optimiser, so that momentum has effect."""
    points = torch.nn.Parameter(random_points(num_classes, dimension, generator(3)))
    optimiser = torch.optim.SGD([points], lr=lr, momentum=momentum)
    for step in range(steps):
        optimiser.zero_grad()
        loss(points, step).backward()
        optimiser.step()
        points.data = F.normalize(points.data, dim=1)
    return points.data.float()


def mean_of_row_maxima(points: torch.Tensor, step: int) -> torch.Tensor:
    return (points @ points.T - 2 * torch.eye(len(points))).max(dim=1).values.mean()


def test_separation_is_plain_sgd_on_the_stated_loss() -> None:
    found = build(6, 3, "separation", 3, steps=30, lr=0.2)
    torch.testing.assert_close(found, by_autograd(mean_of_row_maxima, 6, 3, 30, 0.2, 0.0))


def ranking(points: torch.Tensor) -> torch.Tensor:
    """The mean of -log sigmoid(cos_ij - cos_ik) by going through all triplets of CIFAR-10's words."""
    words = F.normalize(torch.from_numpy(shipped("cifar10")), dim=1)
    nearness, cosines, terms = words @ words.T, points @ points.T, []
    for i in range(10):
        ordered = [int(j) for j in nearness[i].argsort(descending=True) if j != i]
        terms += [F.logsigmoid(cosines[i, j] - cosines[i, k]) for j in ordered[:2] for k in ordered[2:]]
    assert len(terms) == 10 * 2 * 7
    return -torch.stack(terms).mean()


def test_the_words_term_is_the_mean_over_all_triplets() -> None:
    def loss(points: torch.Tensor, step: int) -> torch.Tensor:
        return mean_of_row_maxima(points, step) + 2.5 * ranking(points)

    found = build(10, 4, "separation_semantic", 3, steps=20, lr=0.2, words="cifar10", word_weight=2.5)
    torch.testing.assert_close(found, by_autograd(loss, 10, 4, 20, 0.2, 0.0))


def in_order(points: torch.Tensor) -> float:
    """The share of CIFAR-100's triplets whose nearest words have the larger cosine; a half by chance."""
    words = F.normalize(torch.from_numpy(shipped("cifar100")), dim=1)
    nearest = (words @ words.T - 2 * torch.eye(100)).topk(2, dim=1).indices
    cosines = points @ points.T
    others = torch.ones(100, 1, 100, dtype=torch.bool)
    others[torch.arange(100)[:, None], 0, nearest] = False
    others[range(100), 0, range(100)] = False
    ahead = cosines.gather(1, nearest).unsqueeze(2) > cosines.unsqueeze(1)
    return float((ahead & others).sum() / (2 * others.sum()))


def test_words_put_neighbours_first() -> None:
    assert in_order(build(100, 50, "separation", 0, steps=1000)) < 0.55
    assert in_order(build(100, 50, "separation_semantic", 0, steps=1000, words="cifar100")) > 0.75


def test_words_need_a_pair_of_neighbours_and_another() -> None:
    with pytest.raises(UserError, match="num_classes=3: must be at least 4"):
        build(3, 3, "separation_semantic", 0, words="cifar10")


def test_softmax_separation_is_momentum_sgd_on_the_stated_loss() -> None:
    def loss(points: torch.Tensor, step: int) -> torch.Tensor:
        unit = F.normalize(points, dim=1)
        rows, columns = np.triu_indices(6, 1)
        sharpness = 1 + 6 * step / 30
        return (sharpness * (unit @ unit.T)[rows, columns]).logsumexp(dim=0) / sharpness

    found = build(6, 3, "softmax_separation", 3, steps=30)
    torch.testing.assert_close(found, by_autograd(loss, 6, 3, 30, 0.2, 0.9))


@pytest.mark.parametrize(("dimension", "hpn"), [(10, 0.377), (25, 0.134)])
def test_softmax_separation_is_as_good_as_hpn_in_a_tenth_of_the_steps(dimension: int, hpn: float) -> None:
    assert measure(build(100, dimension, "softmax_separation", 0)).max_cosine < hpn + 0.02
