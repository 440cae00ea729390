"""When classes move, what is reported, and that a resumed run moves them as the undisturbed one."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from composing import compose_config
from torch import Tensor

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import EpochMean, LossMatrix, build_statistic
from dl2pa.methods.heads import PrototypeHead
from dl2pa.model import build_model
from dl2pa.prototypes.build import build
from dl2pa.prototypes.closed_form import simplex

NAMES = ("queue", "ema", "epoch_mean", "loss_matrix")
CLASSES, DIMENSION = 6, 3


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


PROTOTYPES = units(0, CLASSES, DIMENSION)


def assigner(name: str | None, timetable: Timetable | None = None, hysteresis: float = 0.0, seed: int = 1) -> Assigner:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(CLASSES, generator=generator)
    statistic = None if name is None else build_statistic(name, CLASSES, DIMENSION, 0.9, generator)
    return Assigner(first, timetable or Timetable(100), statistic, hysteresis)


def observe(made: Assigner, seed: int, epoch: int = 0, images: int = 18) -> None:
    """A batch of every class's images, somewhere."""
    features = units(seed, images, DIMENSION)
    cost = (1 - features @ PROTOTYPES[made.sigma].T).square()
    made.observe(features, cost, F.one_hot(torch.arange(images) % CLASSES, CLASSES).float())
    made.end_step(PROTOTYPES, epoch)


def test_with_the_queue_classes_begin_where_its_noise_is_matched() -> None:
    """As in the released code: with no image there is no reason to move."""
    cfg = compose_config("assignment.statistic=queue", "dimension=4")
    head = build_model(cfg, build(10, 4, "exact", seed=0), torch.float32).head
    assert isinstance(head, PrototypeHead)
    assert sorted(head.assigner.sigma.tolist()) == list(range(10)) != head.assigner.sigma.tolist()
    assert head.end_epoch(0)["moved"] == 0


# -- the timetable


def epochs_matched(**options: object) -> list[int]:
    timetable = Timetable(**options)  # type: ignore[arg-type]
    return [epoch for epoch in range(timetable.epochs) if timetable.after_epoch(epoch)]


def epochs_matched_by_step(**options: object) -> list[int]:
    timetable = Timetable(every="step", **options)  # type: ignore[arg-type]
    assert not any(timetable.after_epoch(epoch) for epoch in range(timetable.epochs))
    return [epoch for epoch in range(timetable.epochs) if timetable.after_step(epoch)]


@pytest.mark.parametrize(
    ("options", "matched"),
    [
        ({"epochs": 5}, [0, 1, 2, 3]),  # not after the last: nothing would train with the result
        ({"epochs": 1}, []),
        ({"epochs": 9, "every": 3}, [2, 5]),
        ({"epochs": 10, "every": 20}, []),
        ({"epochs": 10, "freeze_after": 0.4}, [0, 1, 2, 3]),  # four epochs, then frozen
        ({"epochs": 10, "freeze_after": 0.0}, []),
        ({"epochs": 10, "warmup": 0.3, "freeze_after": 0.6}, [2, 3, 4, 5]),  # first after three epochs
        ({"epochs": 10, "warmup": 0.3, "freeze_after": 0.3}, [2]),  # once, after the warm-up
        ({"epochs": 10, "warmup": 0.25, "every": 2}, [3, 5, 7]),
        ({"epochs": 10, "warmup": 1.0}, []),
        # Shares that floats cannot hold: 0.29 x 100 = 28.999999999999996, 0.07 x 100 = 7.000000000000001.
        ({"epochs": 100, "warmup": 0.29, "freeze_after": 0.29}, [28]),
        ({"epochs": 100, "warmup": 0.07, "freeze_after": 0.07}, [6]),
    ],
)
def test_epochs_after_which_classes_are_matched(options: dict[str, object], matched: list[int]) -> None:
    assert epochs_matched(**options) == matched
    timetable = Timetable(**options)  # type: ignore[arg-type]
    assert not any(timetable.after_step(epoch) for epoch in range(timetable.epochs))


@pytest.mark.parametrize(
    ("options", "matched"),
    [
        ({"epochs": 4}, [0, 1, 2, 3]),
        ({"epochs": 10, "freeze_after": 0.4}, [0, 1, 2, 3]),
        ({"epochs": 10, "warmup": 0.3, "freeze_after": 0.6}, [3, 4, 5]),  # three epochs without a move
        ({"epochs": 10, "warmup": 0.3, "freeze_after": 0.3}, []),
        ({"epochs": 100, "warmup": 0.07, "freeze_after": 0.1}, [7, 8, 9]),
    ],
)
def test_epochs_in_which_every_step_matches(options: dict[str, object], matched: list[int]) -> None:
    assert epochs_matched_by_step(**options) == matched


# -- moving


@pytest.mark.parametrize("name", NAMES)
def test_classes_move_after_the_epoch_and_not_during_it(name: str) -> None:
    made = assigner(name)
    first = made.sigma.clone()
    observe(made, 2)
    assert torch.equal(made.sigma, first)
    report = made.end_epoch(PROTOTYPES, 0)
    assert report["moved"] == (made.sigma != first).sum() > 0
    assert sorted(made.sigma.tolist()) == list(range(CLASSES))


@pytest.mark.parametrize("name", NAMES)
def test_every_step_classes_move_at_once(name: str) -> None:
    made = assigner(name, Timetable(10, every="step"))
    began, steps = made.sigma.clone(), [made.sigma.clone()]
    for seed in range(3, 7):
        observe(made, seed)
        steps.append(made.sigma.clone())
    moves = sum(int((new != old).sum()) for old, new in itertools.pairwise(steps))
    report = made.end_epoch(PROTOTYPES, 0)
    assert torch.equal(made.sigma, steps[-1])
    assert report["moved"] == (made.sigma != began).sum() > 0
    if name in ("epoch_mean", "loss_matrix"):
        assert report["moved"] < moves, "who came back has not moved"
    assert "value_after" not in report
    assert made.end_epoch(PROTOTYPES, 1)["moved"] == 0  # counted by epoch


def test_every_step_the_loss_matrix_is_matched_on_the_whole_epoch_so_far() -> None:
    """Though the columns of each batch's costs stand in the order of another assignment."""
    made = assigner("loss_matrix", Timetable(10, every="step"))
    costs, changed = torch.zeros(CLASSES, CLASSES), 0
    for seed in range(3, 9):
        before = made.sigma.clone()
        features = units(seed, 18, DIMENSION)
        by_prototype = (1 - features @ PROTOTYPES.T).square()
        share = F.one_hot(torch.arange(18) % CLASSES, CLASSES).float()
        costs += share.T @ by_prototype
        made.observe(features, by_prototype[:, made.sigma], share)
        made.end_step(PROTOTYPES, 0)
        assert made.statistic is not None
        images = 18 * (seed - 2)  # the mean over classes is minus the loss per image
        torch.testing.assert_close(made.statistic.score(PROTOTYPES, made.sigma), -costs * CLASSES / images)
        changed += int((made.sigma != before).any())
    assert changed > 1


@pytest.mark.parametrize("every", [1, "step"])
def test_static_never_moves(every: int | str) -> None:
    made = assigner(None, Timetable(10, every))
    first = made.sigma.clone()
    for epoch in range(4):
        observe(made, 10 + epoch, epoch)
        report = made.end_epoch(PROTOTYPES, epoch)
        assert report["moved"] == 0
        assert report["overlap_first"] == 1
    assert torch.equal(made.sigma, first)


def test_nothing_moves_outside_the_timetable() -> None:
    made = assigner("epoch_mean", Timetable(10, warmup=0.2, freeze_after=0.3))
    moved = []
    for epoch in range(10):
        observe(made, 20 + epoch, epoch)
        moved.append(made.end_epoch(PROTOTYPES, epoch)["moved"])
    assert [epoch for epoch, number in enumerate(moved) if number] == [1, 2]


def test_hysteresis_reaches_the_matching() -> None:
    gains = {}
    for hysteresis in (0.0, 3.0):  # no mean gain of cosines is over 2
        made = assigner("epoch_mean", hysteresis=hysteresis)
        observe(made, 2)
        gains[hysteresis] = made.end_epoch(PROTOTYPES, 0)["moved"]
    assert gains[0.0] > 0
    assert gains[3.0] == 0


@pytest.mark.parametrize("copies", [1, 50])
@pytest.mark.parametrize(("share", "moves"), [(0.9, True), (1.1, False)])
def test_hysteresis_of_the_loss_matrix_is_a_loss_per_image(copies: int, share: float, moves: bool) -> None:
    """One number means the same for any number of images, and whatever their classes' sizes are."""
    labels = torch.tensor([0, 0, 0, 1]).repeat(copies)
    cost = torch.tensor([[0.9, 0.1], [0.5, 0.9]])[labels]  # exchanged, 0.1 and 0.5
    gain = (3 * 0.8 + 0.4) / 4
    made = Assigner(torch.arange(2), Timetable(9), LossMatrix(2, 2), hysteresis=share * gain)
    made.observe(torch.zeros(4 * copies, 2), cost, F.one_hot(labels, 2).float())
    report = made.end_epoch(torch.eye(2), 0)
    assert report["moved"] == (2 if moves else 0)
    assert report["value_before"] == pytest.approx(-0.9)
    if moves:
        assert report["value_after"] - report["value_before"] == pytest.approx(gain)


def test_the_last_step_of_a_run_matches_nothing() -> None:
    """Its result would be evaluated without a step that trained with it."""
    reports = {}
    for last in (False, True):
        made = assigner("epoch_mean", Timetable(2, every="step"))
        head = PrototypeHead(PROTOTYPES, made)
        features = units(3, 18, DIMENSION)
        share = F.one_hot(torch.arange(18) % CLASSES, CLASSES).float()
        made.observe(features, torch.zeros(18, CLASSES), share)
        head.end_step(1, last)
        reports[last] = head.end_epoch(1)["moved"]
    assert reports[False] > 0
    assert reports[True] == 0


def test_a_diverged_network_moves_nothing() -> None:
    """The trainer names the step at the end of the epoch; scipy would end the run with a traceback before."""
    made = assigner("epoch_mean", Timetable(10, every="step"))
    first = made.sigma.clone()
    made.observe(torch.full((6, 3), torch.nan), torch.full((6, 6), torch.nan), torch.eye(6))
    made.end_step(PROTOTYPES, 0)
    made.end_epoch(PROTOTYPES, 0)
    assert torch.equal(made.sigma, first)


# -- what is reported


def test_diagnostics_by_hand() -> None:
    """Three axes as prototypes; class 2 is never seen."""
    made = Assigner(torch.tensor([1, 0, 2]), Timetable(10), EpochMean(3, 3))
    features = torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0], [0.0, 1.0, 0.0]])
    share = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    made.observe(features, torch.zeros(3, 3), share)
    report = made.end_epoch(torch.eye(3), 0)
    # Class means e1 and e2, trained towards e2 and e1; exchanging the two is worth 1 for each.
    assert (report["value_before"], report["value_after"]) == (pytest.approx(0), pytest.approx(1))
    assert report["moved"] == 2
    assert report["overlap_first"] == pytest.approx(1 / 3)
    assert made.sigma.tolist() == [0, 1, 2]

    made.observe(features[:2], torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    report = made.end_epoch(torch.eye(3), 1)
    # One image each: class 0 at cosine 0.6, class 1 at -0.8; the other way round is 0.8 + 0.6.
    assert report["value_before"] == pytest.approx(-0.1)
    assert report["value_after"] == pytest.approx(0.7)
    assert report["overlap_first"] == 1  # back where it began


def test_an_epoch_that_saw_nothing_reports_no_values() -> None:
    report = assigner("epoch_mean").end_epoch(PROTOTYPES, 99)
    assert report == {"moved": 0, "overlap_first": 1}


@pytest.mark.parametrize("name", NAMES)
def test_the_cosines_reported_are_the_epochs_means_whatever_is_matched_on(name: str) -> None:
    made, exact = assigner(name), assigner("epoch_mean")
    made.sigma.copy_(exact.sigma)
    for which in (made, exact):
        observe(which, 30, epoch=98)
        observe(which, 31, epoch=98)
    reports = [which.end_epoch(PROTOTYPES, 99) for which in (made, exact)]  # the last epoch: no matching
    assert reports[0] == reports[1]


# -- resuming


@pytest.mark.parametrize("every", [1, "step"])
@pytest.mark.parametrize("name", [*NAMES, None])
def test_a_state_taken_in_the_middle_of_an_epoch_leads_to_the_same_assignment(
    name: str | None, every: int | str
) -> None:
    timetable = Timetable(10, every)

    def finish(made: Assigner) -> list[object]:
        """The second half of epoch 1, and epoch 2."""
        told: list[object] = []
        for epoch, seeds in ((1, (43, 44)), (2, (45, 46))):
            for seed in seeds:
                observe(made, seed, epoch)
                told.append(made.sigma.tolist())
            told.append((made.end_epoch(PROTOTYPES, epoch), made.sigma.tolist()))
        return told

    undisturbed = assigner(name, timetable)
    for seed in (40, 41):
        observe(undisturbed, seed, 0)
    undisturbed.end_epoch(PROTOTYPES, 0)
    observe(undisturbed, 42, 1)
    state = {key: value.clone() for key, value in undisturbed.state_dict().items()}

    resumed = assigner(name, timetable, seed=2)  # nothing that it begins with remains
    resumed.load_state_dict(state)
    fresh = assigner(name, timetable)
    expected = finish(undisturbed)
    assert finish(resumed) == expected
    assert (finish(fresh) == expected) == (name is None)  # the state matters, where anything is gathered


def test_the_state_does_not_follow_the_assigner() -> None:
    """A checkpoint's sigma is the one trained with, though the matching comes right after it was taken."""
    made = assigner("epoch_mean")
    first = made.sigma.clone()
    observe(made, 2)
    other = assigner("epoch_mean")
    other.load_state_dict(made.state_dict())
    assert made.end_epoch(PROTOTYPES, 0)["moved"] > 0
    assert torch.equal(other.sigma, first)


# -- geometry


def test_permuting_a_simplex_leaves_its_gram_matrix_unchanged() -> None:
    """Re-assignment then changes no angle between two classes' targets; with fewer dimensions it does."""
    sigma = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    points = simplex(10, 9)[sigma]
    torch.testing.assert_close(points @ points.T, simplex(10, 9) @ simplex(10, 9).T)
    low = units(50, 10, 4)
    assert (low[sigma] @ low[sigma].T - low @ low.T).abs().max() > 0.5


def test_class_weights_count_in_the_loss_matrix() -> None:
    weights = torch.tensor([9.0, 1, 1, 1, 1, 1])
    made = Assigner(torch.arange(6), Timetable(10), LossMatrix(6, 3))
    features, cost = units(60, 6, 3), torch.rand(6, 6, generator=torch.Generator().manual_seed(61))
    made.observe(features, cost, torch.eye(6), weights=weights)
    assert isinstance(made.statistic, LossMatrix)
    torch.testing.assert_close(made.statistic.costs, cost * weights.unsqueeze(1))


def test_class_weights_do_not_count_in_directions() -> None:
    """Inverse frequencies change from batch to batch; a class's mean over the epoch must not."""
    made = Assigner(torch.arange(2), Timetable(10), EpochMean(2, 2))
    many, few = torch.tensor([[1.0, 0.0]]).repeat(9, 1), torch.tensor([[0.0, 1.0]])
    for features, weight in ((many, 0.1), (few, 5.0)):
        share = torch.tensor([[1.0, 0.0]]).repeat(len(features), 1)
        cost = torch.zeros(len(features), 2)
        made.observe(features, cost, share, weights=torch.tensor([weight, 1.0]))
    assert isinstance(made.statistic, EpochMean)
    torch.testing.assert_close(made.statistic.means()[0], F.normalize(torch.tensor([9.0, 1.0]), dim=0))
