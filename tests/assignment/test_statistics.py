"""What each statistic makes of the batches it sees, by hand and by brute force."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.matching import match
from dl2pa.assignment.statistics import (
    Confusion,
    Ema,
    EpochMean,
    LossMatrix,
    Queue,
    Statistic,
    build_statistic,
)
from dl2pa.losses import Target, build_cost, reduce

NAMES = ("queue", "ema", "epoch_mean", "loss_matrix")
E1, E2, E3 = torch.eye(3)


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def see(statistic: Statistic, features: Tensor, labels: list[int], num_classes: int) -> None:
    share = F.one_hot(torch.tensor(labels), num_classes).float()
    statistic.observe(features, torch.zeros(len(labels), num_classes), share)


def queue(start: Tensor, momentum: float = 0.9) -> Queue:
    made = Queue(*start.shape, momentum, torch.Generator().manual_seed(0))
    made.queue.copy_(start)
    return made


def ema(start: Tensor, momentum: float = 0.9) -> Ema:
    made = Ema(*start.shape, momentum)
    made.queue.copy_(start)
    return made


# -- the two moving averages


@pytest.mark.parametrize(("made", "cosine"), [(queue, 0.0526), (ema, 0.1104)])
def test_one_update_towards_an_orthogonal_image(made: type, cosine: float) -> None:
    statistic = made(torch.stack([E1, E2]))
    see(statistic, E3.unsqueeze(0), [0], 2)
    assert statistic.queue[0] @ E3 == pytest.approx(cosine, abs=5e-5)
    assert statistic.queue[0].norm() == pytest.approx(1)
    torch.testing.assert_close(statistic.queue[1], E2)


def test_the_queue_keeps_the_last_of_two_images_of_a_class() -> None:
    statistic = queue(torch.stack([E1, E1]))
    see(statistic, torch.stack([E2, E1, E3]), [0, 1, 0], 2)
    torch.testing.assert_close(statistic.queue[0], F.normalize(1.9 * E1 + 0.1 * E3, dim=0))
    assert statistic.queue[0] @ E2 == 0


def test_the_ema_takes_the_mean_of_two_images_of_a_class() -> None:
    statistic = ema(torch.stack([E1, E1]))
    see(statistic, torch.stack([E2, E1, E3]), [0, 1, 0], 2)
    torch.testing.assert_close(statistic.queue[0], F.normalize(0.9 * E1 + 0.05 * E2 + 0.05 * E3, dim=0))


def test_the_queue_starts_as_noise_and_a_batch_normalises_all_of_it() -> None:
    statistic = Queue(200, 3, 0.9, torch.Generator().manual_seed(0))
    assert statistic.queue.std() == pytest.approx(1, abs=0.1)
    assert statistic.queue.mean() == pytest.approx(0, abs=0.1)
    before = statistic.queue.clone()
    see(statistic, E1.unsqueeze(0), [7], 200)
    rest = torch.arange(200) != 7
    torch.testing.assert_close(statistic.queue[rest], F.normalize(before[rest], dim=1))
    torch.testing.assert_close(statistic.queue[7], F.normalize(1.9 * before[7] + 0.1 * E1, dim=0))
    assert statistic.seen().all()  # noise is taken for evidence, as released


def test_the_ema_starts_at_the_first_mean_and_knows_whom_it_has_not_seen() -> None:
    statistic = Ema(3, 3, 0.9)
    assert not statistic.seen().any()
    see(statistic, torch.stack([E1, E2]), [1, 1], 3)
    torch.testing.assert_close(statistic.queue[1], F.normalize(E1 + E2, dim=0))
    assert statistic.seen().tolist() == [False, True, False]
    assert (statistic.queue[[0, 2]] == 0).all()


@pytest.mark.parametrize("made", [queue, ema])
def test_moving_averages_outlive_the_epoch(made: type) -> None:
    statistic = made(units(0, 4, 3))
    before = statistic.queue.clone()
    statistic.end_epoch()
    assert torch.equal(statistic.queue, before)


def test_the_queue_files_a_mixed_image_under_either_label_and_the_ema_weighs_it() -> None:
    features, share = torch.stack([E2, E3]), torch.tensor([[0.8, 0.2], [0.0, 1.0]])
    faithful, average = queue(torch.stack([E1, E1])), ema(torch.stack([E1, E1]))
    for statistic in (faithful, average):
        statistic.observe(features, torch.zeros(2, 2), share)
    torch.testing.assert_close(faithful.queue[1], F.normalize(1.9 * E1 + 0.1 * E3, dim=0))
    torch.testing.assert_close(average.queue[1], F.normalize(0.9 * E1 + 0.1 * (0.2 * E2 + E3) / 1.2, dim=0))


# -- exact means


def test_epoch_means_are_share_weighted_means_over_all_batches() -> None:
    features, share = units(1, 12, 5), torch.rand(12, 4, generator=torch.Generator().manual_seed(2))
    share[:, 3] = 0
    statistic = EpochMean(4, 5)
    for rows in torch.arange(12).split(5):
        statistic.observe(features[rows], torch.zeros(len(rows), 4), share[rows])
    by_hand = np.einsum("bc,bd->cd", share.numpy().astype(float), features.numpy().astype(float))[:3]
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(statistic.means()[:3].numpy(), by_hand, atol=1e-6)
    assert statistic.seen().tolist() == [True, True, True, False]
    assert (statistic.means()[3] == 0).all()
    statistic.end_epoch()
    assert not statistic.seen().any()
    assert (statistic.means() == 0).all()


@pytest.mark.parametrize("name", ["queue", "ema", "epoch_mean"])
def test_scores_are_cosines_to_the_prototypes_whatever_the_assignment(name: str) -> None:
    prototypes, statistic = units(3, 4, 3), build_statistic(name, 4, 3, 0.9, torch.Generator().manual_seed(0))
    see(statistic, units(4, 8, 3), [0, 1, 2, 3, 3, 2, 1, 0], 4)
    rows = statistic.means() if isinstance(statistic, EpochMean) else statistic.queue
    for sigma in (torch.arange(4), torch.tensor([2, 0, 3, 1])):
        torch.testing.assert_close(statistic.score(prototypes, sigma), rows @ prototypes.T)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("name", NAMES)
def test_weighing_a_class_turns_no_direction(name: str) -> None:
    """Class weights of the loss multiply the columns of ``share``: only summed losses may feel it."""
    features, share, weights = units(5, 9, 3), F.one_hot(torch.arange(9) % 4, 4).float(), torch.tensor([1.0, 3, 0.2, 9])
    plain, weighted = (build_statistic(name, 4, 3, 0.9, torch.Generator().manual_seed(0)) for _ in range(2))
    cost = torch.rand(9, 4, generator=torch.Generator().manual_seed(6))
    plain.observe(features, cost, share)
    weighted.observe(features, cost, share * weights)
    scores = [statistic.score(units(7, 4, 3), torch.arange(4)) for statistic in (plain, weighted)]
    # Three images of class 0, two of each other; weights count as so many images.
    images = (weights * torch.tensor([3.0, 2, 2, 2])).sum()
    expected = scores[0] * weights.unsqueeze(1) * 9 / images if name == "loss_matrix" else scores[0]
    torch.testing.assert_close(scores[1], expected)


# -- the loss matrix


def batch_loss(
    prototypes: Tensor, sigma: Tensor, features: Tensor, target: Target, loss: str
) -> tuple[Tensor, Target, float]:
    """Cost matrix, target with its class weights, and the batch's loss under ``sigma``, by the training loss itself."""
    cost, weights = build_cost(loss, "batch", 0.1, torch.ones(len(sigma)))(
        features @ prototypes[sigma].T, features, target.labels
    )
    target = target._replace(weights=weights)
    return cost, target, float(reduce(cost, target, "sum"))


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("loss", ["squared_cosine", "dot_regression", "cross_entropy"])
@pytest.mark.parametrize("num_classes", [2, 4, 5])
def test_a_loss_matrix_matching_is_the_best_of_all_assignments(num_classes: int, loss: str, mixup: bool) -> None:
    """From the worst of all bijections to the best, their epoch's losses recomputed from its features."""
    prototypes, generator = units(8, num_classes, 3), torch.Generator().manual_seed(num_classes)
    batches = []
    for number in range(3):
        # A long tail: every class is in every batch, class 0 most often.
        labels = torch.cat([torch.arange(num_classes), torch.zeros(6, dtype=torch.long)])
        labels = labels[torch.randperm(len(labels), generator=generator)]
        target = Target(labels, labels.roll(1), torch.tensor(0.7)) if mixup else Target(labels)
        batches.append((units(9 + number, len(labels), 3), target))
    values = {
        way: sum(batch_loss(prototypes, torch.tensor(way), *batch, loss)[2] for batch in batches)
        for way in itertools.permutations(range(num_classes))
    }
    worst = max(values, key=values.__getitem__)

    assigner = Assigner(torch.tensor(worst), Timetable(2), LossMatrix(num_classes, 3))
    for features, target in batches:
        cost, target, _ = batch_loss(prototypes, assigner.sigma, features, target, loss)
        assigner.observe(features, cost, target.share(num_classes), weights=target.weights)
    report = assigner.end_epoch(prototypes, 0)

    assert values[tuple(assigner.sigma.tolist())] == pytest.approx(min(values.values()), rel=1e-5)
    images = 3 * (num_classes + 6)  # also with class weights: a batch's add up to its images
    assert -images * report["value_before"] == pytest.approx(values[worst], rel=1e-5)
    assert -images * report["value_after"] == pytest.approx(min(values.values()), rel=1e-5)
    assert values[worst] > min(values.values()) * 1.01


def test_the_loss_matrix_files_class_ordered_columns_under_prototypes() -> None:
    """cost[b, j] is what image b costs at prototype sigma[j]."""
    statistic, sigma = LossMatrix(3, 2), torch.tensor([2, 0, 1])
    cost = torch.tensor([[10.0, 20, 30], [1, 2, 3]])
    statistic.observe(torch.zeros(2, 2), cost, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    score = statistic.score(torch.zeros(3, 2), sigma)
    # Two images of two classes: an image a class.
    assert score.tolist() == [[-20, -30, -10], [0, 0, 0], [-2, -3, -1]]
    assert statistic.seen().tolist() == [True, False, True]


def test_the_loss_matrix_goes_on_with_its_sums_when_the_assignment_changes() -> None:
    """The same losses by prototype, whether a class moved between the batches or not."""
    prototypes, features, labels = units(10, 5, 3), units(11, 20, 3), torch.arange(20) % 5
    share = F.one_hot(labels, 5).float()
    old, new = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([0, 1, 2, 4, 3])
    still, moving = LossMatrix(5, 3), LossMatrix(5, 3)
    for rows, sigma in ((slice(0, 10), old), (slice(10, 20), new)):
        still.observe(features[rows], (1 - features[rows] @ prototypes[old].T).square(), share[rows])
        if sigma is new:
            moving.reassign(old, new)
        moving.observe(features[rows], (1 - features[rows] @ prototypes[sigma].T).square(), share[rows])
    torch.testing.assert_close(moving.score(prototypes, new), still.score(prototypes, old))


def test_alternating_descent_on_the_loss_matrix_never_goes_up() -> None:
    """Gradient steps on the features, then a matching, in turn: the summed loss falls at both."""
    torch.manual_seed(0)
    prototypes, labels = units(12, 6, 3), torch.arange(30) % 6
    free = torch.randn(30, 3, requires_grad=True)
    assigner = Assigner(torch.randperm(6), Timetable(100), LossMatrix(6, 3))

    def cost() -> Tensor:
        return (1 - F.normalize(free, dim=1) @ prototypes[assigner.sigma].T).square()

    values, moved = [], 0.0
    for epoch in range(5):
        for _ in range(2):
            loss = cost().gather(1, labels.unsqueeze(1)).sum()
            values.append(loss.item())
            (gradient,) = torch.autograd.grad(loss, free)
            with torch.no_grad():
                free -= 0.02 * gradient
        values.append(cost().gather(1, labels.unsqueeze(1)).sum().item())
        assigner.observe(F.normalize(free, dim=1), cost().detach(), F.one_hot(labels, 6).float())
        moved += assigner.end_epoch(prototypes, epoch)["moved"]
    assert moved > 0
    assert all(later < earlier + 1e-6 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "confusion"])
def test_a_batch_of_few_classes_counts_the_same_by_its_own_columns(name: str, mixup: bool) -> None:
    """Labels come several times, and mixed ones are spread over two classes; most classes are absent."""

    def made() -> Statistic:
        if name == "confusion":
            return Confusion(30)
        return build_statistic(name, 30, 3, 0.9, torch.Generator().manual_seed(0))

    whole, narrow = made(), made()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 7, (9,), generator=generator)
        target = Target(labels, labels.roll(1), torch.tensor(0.7)) if mixup else Target(labels)
        features, cost = units(20 + seed, 9, 3), torch.rand(9, 30, generator=generator)
        whole.observe(features, cost, target.share(30))
        share, present = target.share_of_present(30)
        assert present is not None
        assert share.shape == (9, 18 if mixup else 9)
        narrow.observe(features, cost, share, present)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(narrow.state_dict()[key], value)
    assert any(value.any() for value in whole.state_dict().values())


def test_the_assigner_weighs_the_columns_of_a_batch_as_their_classes() -> None:
    target, weights = Target(torch.tensor([4, 4, 1])), torch.arange(1.0, 7)
    assigner = Assigner(torch.arange(6), Timetable(9), LossMatrix(6, 3))
    assigner.observe(units(1, 3, 3), torch.ones(3, 6), *target.share_of_present(6), weights)
    assert assigner.statistic.counts.tolist() == [0, 2, 0, 0, 10, 0]


def test_a_batch_with_a_label_for_every_class_has_a_column_for_each() -> None:
    share, classes = Target(torch.tensor([2, 0, 2])).share_of_present(3)
    assert classes is None
    assert share.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]


# -- confusion


def test_confusion_by_hand() -> None:
    """Class 0 is taken for class 1 half of the time, class 1 for class 0 a quarter of the time; class 2 is not seen."""
    statistic = Confusion(3)
    labels, predicted = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 1, 1])
    statistic.observe(torch.zeros(6, 2), 1 - torch.eye(3)[predicted], torch.eye(3)[labels])
    expected = torch.tensor([[0.5, 0.375, 0], [0.375, 0.75, 0], [0, 0, 0]])
    torch.testing.assert_close(statistic.similarity(), expected)
    assert statistic.seen().tolist() == [True, True, False]
    statistic.end_epoch()
    assert not statistic.seen().any()
    assert (statistic.similarity() == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_permuted_prototypes_as_features_are_recognised(name: str) -> None:
    """Every class lies on a prototype that is not its own: one matching gives each class that prototype."""
    prototypes = units(13, 8, 4)
    permutation = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    sigma, features = torch.arange(8), prototypes[permutation]
    statistic = build_statistic(name, 8, 4, 0.9, torch.Generator().manual_seed(0))
    for _ in range(200):  # until the queue has forgotten the noise it starts with
        statistic.observe(features, (1 - features @ prototypes[sigma].T).square(), torch.eye(8))
    matched = match(statistic.score(prototypes, sigma).double().numpy(), sigma.numpy(), statistic.seen().numpy())
    assert matched.tolist() == permutation.tolist()
