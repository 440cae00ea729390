"""Plans and what is trained towards while they harden."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dl2pa.assignment.assigner import Timetable
from dl2pa.assignment.sinkhorn import FALL, Sinkhorn, plan
from dl2pa.assignment.statistics import EpochMean


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


PROTOTYPES = units(0, 8, 3)


def made(epochs: int = 10, tau: float = 0.2, **options: float) -> Sinkhorn:
    return Sinkhorn(
        PROTOTYPES,
        torch.randperm(8, generator=torch.Generator().manual_seed(1)),
        Timetable(
            epochs,
            **options,  # type: ignore[arg-type]
        ),
        EpochMean(8, 3),
        tau,
    )


def observe(assigner: Sinkhorn, seed: int, classes: int = 8) -> None:
    features = units(seed, 24, 3)
    assigner.observe(features, torch.zeros(24, 8), torch.eye(8)[torch.arange(24) % classes])


@pytest.mark.parametrize("tau", [3.0, 0.2, 0.01])
def test_a_plan_is_doubly_stochastic(tau: float) -> None:
    pi = plan(units(2, 20, 4) @ units(3, 20, 4).T, tau)
    torch.testing.assert_close(pi.sum(dim=1), torch.ones(20, dtype=torch.float64))
    assert (pi.sum(dim=0) - 1).abs().max() < 0.05
    assert (pi >= 0).all()


def test_a_plan_is_the_maximum_of_its_objective() -> None:
    """Scaling rows and columns is the optimality condition: log pi - score / tau is a sum of a row and a column."""
    score = (units(4, 9, 4) @ units(5, 9, 4).T).double()
    rest = plan(score, 0.3).log() - score / 0.3
    rest = rest - rest.mean(dim=0) - rest.mean(dim=1, keepdim=True) + rest.mean()
    assert rest.abs().max() < 1e-9


def test_a_cold_plan_is_the_matching_and_a_hot_one_is_even() -> None:
    score = units(6, 20, 4) @ units(7, 20, 4).T
    rows, matched = linear_sum_assignment(score.numpy(), maximize=True)
    cold = plan(score, 1e-4)
    assert (cold.argmax(dim=1).numpy() == matched).all()
    assert cold[rows, matched].min() > 0.9
    torch.testing.assert_close(plan(score, 1e5), torch.full((20, 20), 0.05, dtype=torch.float64), atol=1e-4, rtol=0)


def test_targets_are_blends_that_harden_to_owned_prototypes() -> None:
    assigner = made(freeze_after=0.4)
    assert torch.equal(assigner.class_vectors(PROTOTYPES), PROTOTYPES[assigner.sigma])
    reports, distances = [], []
    for epoch in range(6):
        observe(assigner, 9)  # the same means in every epoch: what changes is the temperature
        reports.append(assigner.end_epoch(PROTOTYPES, epoch))
        vectors = assigner.class_vectors(PROTOTYPES)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))
        distances.append(float((vectors - PROTOTYPES[assigner.sigma]).norm(dim=1).mean()))
    taus = [report.get("tau") for report in reports]
    assert taus[:3] == [pytest.approx(0.2 * FALL**-way) for way in (0, 1 / 3, 2 / 3)]
    assert taus[3:] == [0.0, None, None]  # hard when freezing, then nothing more
    entropies = [report["plan_entropy"] for report in reports[:3]]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[0] > 1  # of ln 8 = 2.08
    assert distances[0] > distances[1] > distances[2]
    assert distances[3:] == [0, 0, 0]
    means = units(9, 24, 3).reshape(3, 8, 3).sum(dim=0)
    _, exact = linear_sum_assignment((F.normalize(means, dim=1) @ PROTOTYPES.T).numpy(), maximize=True)
    assert assigner.sigma.tolist() == exact.tolist()


def test_the_first_target_by_hand() -> None:
    assigner = made(tau=0.5)
    observe(assigner, 9)
    assert isinstance(assigner.statistic, EpochMean)
    score = assigner.statistic.means() @ PROTOTYPES.T
    assigner.end_epoch(PROTOTYPES, 0)
    expected = F.normalize(plan(score, 0.5).float() @ PROTOTYPES, dim=1)
    torch.testing.assert_close(assigner.class_vectors(PROTOTYPES), expected)


def test_one_matching_is_exact() -> None:
    assigner = made(warmup=0.3, freeze_after=0.3)
    for epoch in range(4):
        observe(assigner, 9)
        report = assigner.end_epoch(PROTOTYPES, epoch)
        assert torch.equal(assigner.class_vectors(PROTOTYPES), PROTOTYPES[assigner.sigma])
        assert report.get("tau") == (0 if epoch == 2 else None)


def test_an_unseen_class_keeps_its_prototype() -> None:
    assigner = made()
    owned = assigner.sigma[6:].clone()
    observe(assigner, 9, classes=6)
    assigner.end_epoch(PROTOTYPES, 0)
    assert torch.equal(assigner.sigma[6:], owned)
    assert torch.equal(assigner.targets[6:], PROTOTYPES[owned])
    assert (assigner.targets[:6] != PROTOTYPES[assigner.sigma[:6]]).any(dim=1).all()


def test_prototypes_that_cancel_out_leave_the_matching() -> None:
    """A plan of equal scores blends opposite prototypes to nothing."""
    prototypes = torch.tensor([[1.0, 0], [-1, 0]])
    assigner = Sinkhorn(prototypes, torch.arange(2), Timetable(10), EpochMean(2, 2), 1.0)
    assigner.observe(torch.tensor([[0.0, 1], [0, 1]]), torch.zeros(2, 2), torch.eye(2))
    assigner.end_epoch(prototypes, 0)
    assert torch.equal(assigner.targets, prototypes)


def test_a_resumed_run_has_the_same_targets() -> None:
    def epoch(assigner: Sinkhorn, number: int) -> None:
        observe(assigner, 20 + number)
        assigner.end_epoch(PROTOTYPES, number)

    undisturbed, resumed = made(), made()
    epoch(undisturbed, 0)
    observe(undisturbed, 30)
    resumed.load_state_dict({key: value.clone() for key, value in undisturbed.state_dict().items()})
    for number in (1, 2):
        for assigner in (undisturbed, resumed):
            epoch(assigner, number)
        for key, value in undisturbed.state_dict().items():
            assert np.array_equal(resumed.state_dict()[key].numpy(), value.numpy()), key
