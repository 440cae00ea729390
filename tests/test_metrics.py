"""Metrics against cases worked by hand and a reference in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from dl2pa import metrics
from dl2pa.metrics import Reliability, Tally, fit_temperature, groups


def tallied(scores: torch.Tensor, labels: torch.Tensor) -> Tally:
    tally = Tally(scores.shape[1], "cpu")
    tally.update(scores, labels)
    return tally


@pytest.mark.parametrize(
    ("classes", "head", "medium", "tail"),
    [
        (10, range(3), range(3, 7), range(7, 10)),
        (100, range(36), range(36, 71), range(71, 100)),
        (1000, range(390), range(390, 835), range(835, 1000)),
        (200, range(72), range(72, 142), range(142, 200)),
        (3, range(1), range(1, 2), range(2, 3)),
    ],
)
def test_groups(classes: int, head: range, medium: range, tail: range) -> None:
    assert groups(classes) == {"head": head, "medium": medium, "tail": tail}


@pytest.mark.parametrize("classes", range(1, 50))
def test_groups_cover_every_class_once(classes: int) -> None:
    assert [rank for ranks in groups(classes).values() for rank in ranks] == list(range(classes))


def test_summary_by_hand() -> None:
    """Three classes; class 2 has most training images, class 0 fewest. Class 0: 1 of 2 right, 1: 1 of 1, 2: 0 of 1."""
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.1, 0.2, 0.0], [0.0, 0.8, 0.1], [0.5, 0.1, 0.4]])
    summary = tallied(scores, torch.tensor([0, 0, 1, 2])).summary([5, 10, 100])
    assert summary == {
        "top1": 50.0,
        "top5": 100.0,
        "macro": 50.0,
        "head": 0.0,
        "medium": 100.0,
        "tail": 50.0,
        "per_class": [50.0, 100.0, 0.0],
    }


def test_equal_training_counts_have_no_groups() -> None:
    summary = tallied(torch.eye(3), torch.arange(3)).summary([7, 7, 7])
    assert (summary["head"], summary["medium"], summary["tail"]) == (None, None, None)
    assert summary["macro"] == 100


def test_classes_without_test_images_are_left_out() -> None:
    summary = tallied(torch.eye(10)[:5], torch.arange(5)).summary(range(10, 0, -1))
    assert summary["per_class"] == [100.0] * 5 + [None] * 5
    assert (summary["macro"], summary["head"], summary["medium"], summary["tail"]) == (100, 100, 100, None)


def test_equal_training_counts_keep_label_order() -> None:
    """Ten classes of which 4 and 7 have the most images: head is 4, 7, 0, tail is 6, 8, 9."""
    counts = [1, 1, 1, 1, 5, 1, 1, 5, 1, 1]
    right = torch.tensor([4, 7, 0])
    labels = torch.arange(10)
    scores = torch.eye(10)[torch.where(torch.isin(labels, right), labels, (labels + 1) % 10)]
    summary = tallied(scores, labels).summary(counts)
    assert (summary["head"], summary["medium"], summary["tail"]) == (100, 0, 0)


def test_equal_scores_are_broken_as_in_argmax() -> None:
    """All scores equal: class 0 is predicted, classes 0 to 4 are the first five."""
    summary = tallied(torch.zeros(10, 10), torch.arange(10)).summary([1] * 10)
    assert summary["top1"] == 10
    assert summary["top5"] == 50


@pytest.mark.parametrize("classes", [2, 10])
def test_scores_that_are_no_numbers_are_wrong(classes: int) -> None:
    summary = tallied(torch.full((classes, classes), math.nan), torch.arange(classes)).summary([1] * classes)
    assert summary["top1"] == summary["top5"] == 0


@pytest.mark.parametrize("classes", [3, 5, 20])
def test_batches_add_up_to_numpy(classes: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(500, classes)).round(1)  # rounded: some scores are equal
    labels = rng.integers(classes, size=500)
    counts = rng.integers(1, 100, size=classes).tolist()
    tally = Tally(classes, "cpu")
    for chosen in np.array_split(np.arange(500), 7):
        tally.update(torch.tensor(scores[chosen]), torch.tensor(labels[chosen]))
    summary = tally.summary(counts)

    order = np.argsort(-scores, axis=1, kind="stable")
    right = order[:, 0] == labels
    per_class = [100 * right[labels == c].mean() for c in range(classes)]
    by_frequency = np.argsort(-np.array(counts), kind="stable")
    assert summary["top1"] == pytest.approx(100 * right.mean())
    assert summary["top5"] == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean())
    assert summary["per_class"] == pytest.approx(per_class)
    assert summary["macro"] == pytest.approx(np.mean(per_class))
    for name, ranks in groups(classes).items():
        assert summary[name] == pytest.approx(np.mean([per_class[by_frequency[rank]] for rank in ranks]))


def ece(scores: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> float:
    """Of two batches."""
    reliability = Reliability(temperature)
    for part in (slice(None, len(labels) // 3), slice(len(labels) // 3, None)):
        reliability.update(scores[part], labels[part])
    return reliability.ece()


def reference_ece(scores: np.ndarray, labels: np.ndarray) -> float:
    probabilities = softmax(scores, axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * error


def test_ece_by_hand() -> None:
    """Four images at confidence 0.9, three of them right: |0.75 - 0.9|."""
    scores = torch.tensor([[math.log(9), 0.0]]).repeat(4, 1)
    assert ece(scores, torch.tensor([0, 0, 0, 1])) == pytest.approx(15.0, abs=1e-4)


def test_ece_takes_scores_within_0_and_1_as_scores() -> None:
    assert ece(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == pytest.approx(100 * (1 - 1 / (1 + math.exp(-1))))


def test_ece_of_certain_answers() -> None:
    """Confidence 1 belongs to the last bin: a right one at 1 and a wrong one at 0.95 give |0.5 - 0.975|."""
    scores = torch.tensor([[200.0, 0.0], [math.log(19), 0.0]])
    assert ece(scores, torch.tensor([0, 1])) == pytest.approx(47.5, abs=1e-4)


def test_scores_that_are_not_finite_have_no_calibration() -> None:
    assert math.isnan(ece(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), torch.tensor([0, 1])))


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 0.3), (10, 3.0), (100, 5.0)])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_ece_against_numpy(classes: int, scale: float, temperature: float) -> None:
    rng = np.random.default_rng(1)
    scores = scale * rng.normal(size=(2000, classes))
    labels = rng.integers(classes, size=2000)
    labels[::2] = scores[::2].argmax(1)
    found = ece(torch.tensor(scores), torch.tensor(labels), temperature)
    assert found == pytest.approx(reference_ece(scores / temperature, labels), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.02, 1.0, 30.0])
def test_fit_temperature_recovers_the_truth(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels drawn from softmax(z): for scores z * T the best temperature is T, up to sampling error."""
    monkeypatch.setattr(metrics, "_BLOCK", 70_000)  # 7,000 images at a time
    rng = np.random.default_rng(2)
    logits = 2 * rng.normal(size=(20000, 10))
    labels = (np.log(softmax(logits, axis=1)) + rng.gumbel(size=logits.shape)).argmax(1)
    scores = torch.tensor(logits * temperature)
    fitted = fit_temperature(scores, torch.tensor(labels))
    assert fitted == pytest.approx(temperature, rel=0.03)

    def nll(t: float) -> float:
        return float(-log_softmax(logits * temperature / t, axis=1)[np.arange(20000), labels].mean())

    assert nll(fitted) < min(nll(fitted * 1.001), nll(fitted / 1.001))
    assert ece(scores, torch.tensor(labels), fitted) < 1.5


def test_fit_temperature_stays_finite_when_all_is_right() -> None:
    assert 1e-3 <= fit_temperature(torch.eye(4), torch.arange(4)) < 0.1
