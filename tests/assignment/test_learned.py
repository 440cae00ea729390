"""The learned warm-up: what is trained when, the one matching that always comes, and resuming inside it."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.assignment.assigner import Timetable
from dl2pa.assignment.learned import LearnedWarmup
from dl2pa.assignment.statistics import EpochMean
from dl2pa.losses import Target
from dl2pa.methods.heads import PrototypeHead


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


PROTOTYPES = units(0, 6, 3)


def head(
    learn: float = 0.4, epochs: int = 5, hysteresis: float = 0.0, rotate: bool = False, **options: float
) -> PrototypeHead:
    timetable = Timetable(epochs, learn=learn, **{"freeze_after": learn, **options})  # type: ignore[arg-type]
    sigma = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assigner = LearnedWarmup(sigma, timetable, EpochMean(6, 3), units(2, 6, 3), hysteresis, rotate)
    return PrototypeHead(PROTOTYPES, assigner)


def epoch(made: PrototypeHead, optimizer: torch.optim.Optimizer, number: int, steps: int = 3) -> dict[str, float]:
    """Cross-entropy on features that stay where they are: class c's images lie around prototype c."""
    for step in range(steps):
        train(made, optimizer, 10 * number + step)
    return made.end_epoch(number)


def train(made: PrototypeHead, optimizer: torch.optim.Optimizer, seed: int) -> None:
    labels = torch.arange(12) % 6
    features, scores = made(PROTOTYPES[labels] + 0.2 * units(seed, 12, 3))
    loss = F.cross_entropy(scores / 0.1, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    made.observe(features.detach(), torch.zeros(12, 6), Target(labels))


def sgd(made: PrototypeHead) -> torch.optim.SGD:
    return torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


# -- the timetable


@pytest.mark.parametrize(
    ("options", "matched"),
    [
        ({"epochs": 8, "learn": 0.25, "freeze_after": 0.25}, [1]),
        ({"epochs": 9, "learn": 0.25, "freeze_after": 0.25}, [1]),  # 2.25 epochs
        ({"epochs": 10, "learn": 0.01, "freeze_after": 0.01}, [0]),  # at least one epoch
        ({"epochs": 3, "learn": 1.0, "freeze_after": 1.0}, [1]),  # and one is left for the prototypes
        ({"epochs": 2, "learn": 0.25, "freeze_after": 0.25}, [0]),
        ({"epochs": 100, "learn": 0.29, "freeze_after": 0.29}, [28]),  # 28.999999999999996
        ({"epochs": 8, "learn": 0.25, "freeze_after": 0.5}, [1, 2, 3]),
        ({"epochs": 8, "learn": 0.3, "freeze_after": 1.0, "every": 3}, [1, 2, 5]),  # whether every divides it or not
        ({"epochs": 8, "learn": 0.25, "freeze_after": 1.0, "every": "step"}, [1]),
    ],
)
def test_one_matching_ends_the_warm_up_whatever_the_rounding(options: dict[str, object], matched: list[int]) -> None:
    timetable = Timetable(**options)  # type: ignore[arg-type]
    assert [number for number in range(timetable.epochs) if timetable.after_epoch(number)] == matched
    assert not timetable.empty()
    steps = [number for number in range(timetable.epochs) if timetable.after_step(number)]
    assert steps == (list(range(2, 8)) if timetable.every == "step" else [])


# -- learning, then prototypes


def test_scores_are_cosines_to_learned_vectors_and_then_to_prototypes() -> None:
    made = head()
    assert isinstance(made.assigner, LearnedWarmup)
    embedding = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    cosines = F.cosine_similarity(embedding.unsqueeze(1), made.assigner.vectors.unsqueeze(0), dim=2)
    torch.testing.assert_close(made(embedding)[1], cosines)
    assert made.assignment() is None  # no class owns a prototype yet
    optimizer = sgd(made)
    reports = [epoch(made, optimizer, number) for number in range(4)]
    assert [report["moved"] for report in reports] == [0, 6, 0, 0]
    assert made.assignment().tolist() == list(range(6))  # where the features were all along
    torch.testing.assert_close(made(embedding)[1], F.normalize(embedding, dim=1) @ PROTOTYPES.T)
    assert "value_after" in reports[1]
    assert "value_before" not in reports[1]
    assert [report["overlap_first"] for report in reports] == [1, 1, 1, 1]


def test_the_vectors_are_trained_in_the_warm_up_alone() -> None:
    made = head()
    assert isinstance(made.assigner, LearnedWarmup)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    starts = []
    for number in range(4):
        starts.append(made.assigner.vectors.detach().clone())
        epoch(made, optimizer, number)
    starts.append(made.assigner.vectors.detach().clone())
    assert [torch.equal(*pair) for pair in itertools.pairwise(starts)] == [False, False, True, True]


def test_hysteresis_waits_for_an_assignment_to_keep() -> None:
    made = head(hysteresis=5.0, freeze_after=1.0)  # no mean gain of cosines is over 2
    optimizer = sgd(made)
    moved = [epoch(made, optimizer, number)["moved"] for number in range(4)]
    assert moved == [0, 6, 0, 0]
    assert made.assignment().tolist() == list(range(6))
    made.observe(PROTOTYPES.roll(1, 0), torch.zeros(6, 6), Target(torch.arange(6)))
    assert made.end_epoch(3)["moved"] == 0


def test_later_matchings_follow_the_timetable() -> None:
    made = head(freeze_after=0.6)
    optimizer = sgd(made)
    for number in range(2):
        epoch(made, optimizer, number)
    for number in (2, 3):
        made.observe(PROTOTYPES.roll(number, 0), torch.zeros(6, 6), Target(torch.arange(6)))
        assert made.end_epoch(number)["moved"] == (6 if number == 2 else 0)  # frozen after three epochs


def test_the_matching_may_turn_the_prototypes() -> None:
    made = head(rotate=True)
    turned = PROTOTYPES @ torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    for number in range(2):
        made.observe(turned, torch.zeros(6, 6), Target(torch.arange(6)))
        report = made.end_epoch(number)
    assert report["value_after"] > (turned @ PROTOTYPES.T).max(dim=1).values.mean()
    assert report["rotation_degrees"] > 0
    assert not torch.equal(made.prototypes, PROTOTYPES)
    torch.testing.assert_close(made.prototypes @ made.prototypes.T, PROTOTYPES @ PROTOTYPES.T)


# -- resuming


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_state_taken_in_the_middle_of_any_epoch_ends_with_the_same_bits(stop: int) -> None:
    def rest(made: PrototypeHead, optimizer: torch.optim.Optimizer) -> list[object]:
        told: list[object] = []
        train(made, optimizer, 99)
        told.append(made.end_epoch(stop))
        told.extend(epoch(made, optimizer, number) for number in range(stop + 1, 5))
        return told

    undisturbed = head(freeze_after=0.8)
    optimizer = sgd(undisturbed)
    for number in range(stop):
        epoch(undisturbed, optimizer, number)
    train(undisturbed, optimizer, 98)
    state, momenta = copy.deepcopy((undisturbed.state_dict(), optimizer.state_dict()))

    resumed = head(freeze_after=0.8)
    again = sgd(resumed)
    resumed.load_state_dict(state)
    again.load_state_dict(momenta)
    assert rest(resumed, again) == rest(undisturbed, optimizer)
    for key, value in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
