"""How good a classifier's scores are: accuracy by class and by class frequency, and calibration."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = ("head", "medium", "tail")

# First class of "medium" and of "tail" among the classes in descending order of training images. Fixed by number of
# classes in the code bases behind the published tables; they are close to the usual rule (more than 100, 20 to 100,
# fewer than 20 images) only for CIFAR-100 at imbalance 0.01.
_PUBLISHED_STARTS = {10: (3, 7), 100: (36, 71), 1000: (390, 835)}

ECE_BINS = 15

# Cosine scores want about 0.01 to 0.1, a linear layer's about 1 to 3.
_TEMPERATURES = (1e-3, 1e3)

_BLOCK = 1 << 24  # scores that are looked at in double precision at once


def long_tailed(train_counts: Sequence[int]) -> bool:
    """Whether a class has twice the training images of another."""
    return max(train_counts) >= 2 * min(train_counts)


def groups(num_classes: int) -> dict[str, range]:
    """Ranks (0 = most training images) that make up "head", "medium" and "tail".

    Published for 10, 100 and 1000 classes (1000: ImageNet-LT). For any other number no published split exists, and the
    one of 100 classes is scaled: medium starts at 36 %, tail at 71 % of the classes, rounded. A group may be empty.
    """
    scaled = ((36 * num_classes + 50) // 100, (71 * num_classes + 50) // 100)
    medium, tail = _PUBLISHED_STARTS.get(num_classes, scaled)
    return dict(zip(GROUPS, (range(medium), range(medium, tail), range(tail, num_classes)), strict=True))


class Tally:
    """Counts right answers per class on the device that computes them; the host waits only in ``summary``.

    ``counts`` [3,C] (int64: right, right among the first five, images) may be summed over processes before ``summary``.
    """

    def __init__(self, num_classes: int, device: torch.device | str) -> None:
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)
        self._classes = torch.arange(num_classes, device=device)

    @torch.no_grad()
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: scores [B,C] (larger is likelier), labels [B] (int64, 0 to C-1).

        The label's rank is the number of classes ahead of it. Of equal scores the lower class is ahead, as in argmax,
        so a network whose scores are all equal is not right everywhere. A score that is not a number is ahead of any
        other, and a label whose own score is none is wrong.
        """
        own = scores.gather(1, labels[:, None])
        tied_ahead = (scores == own) & (self._classes < labels[:, None])
        rank = (~(scores <= own) | tied_ahead).sum(dim=1)
        hits = torch.stack([rank < 1, rank < min(5, len(self._classes)), torch.ones_like(rank, dtype=torch.bool)])
        self.counts.index_add_(1, labels, hits.to(torch.int64))

    def summary(self, train_counts: Sequence[int]) -> dict[str, Any]:
        """Accuracies in percent; ``train_counts`` [C] is the number of training images per class.

        top1, top5: over all images; top5 counts a label among the first min(5, C).
        per_class: top-1 of each class in label order, None for a class without test images.
        macro: mean of per_class, without the None.
        head, medium, tail: the same mean over the classes of ``groups``, classes sorted by descending training count
        (equal counts in label order). None when ``train_counts`` are not long-tailed or the group has no test images.
        """
        right, right_in_five, images = (row.tolist() for row in self.counts.cpu())
        total = sum(images)
        assert total > 0, "summary before any update"
        assert len(train_counts) == len(images)
        per_class = [100 * r / n if n > 0 else None for r, n in zip(right, images, strict=True)]
        by_frequency = sorted(
            range(len(images)), key=lambda c: train_counts[c], reverse=True
        )  # stable, reversed or not
        grouping = long_tailed(train_counts)
        grouped = {
            name: _mean([per_class[by_frequency[rank]] for rank in ranks]) if grouping else None
            for name, ranks in groups(len(images)).items()
        }
        return {
            "top1": 100 * sum(right) / total,
            "top5": 100 * sum(right_in_five) / total,
            "macro": _mean(per_class),
            **grouped,
            "per_class": per_class,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature T in [1/1000, 1000] that minimises the mean cross-entropy of scores / T (Guo et al. 2017).

    scores [N,C], labels [N], held out from training. The loss is convex in 1/T, so it has one minimum over log T, which
    is searched in float64. If every image is classified rightly the loss falls with T without end, and T comes out near
    the lower bound or where the loss has rounded to zero.
    """
    from scipy.optimize import minimize_scalar

    scores, labels = scores.detach().cpu(), labels.cpu()
    rows = max(1, _BLOCK // scores.shape[1])
    parts = list(zip(scores.split(rows), labels.split(rows), strict=True))

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return sum(F.cross_entropy(part.double() / temperature, own, reduction="sum").item() for part, own in parts)

    bounds = tuple(math.log(temperature) for temperature in _TEMPERATURES)
    return math.exp(minimize_scalar(lambda at: loss(at) / len(labels), bounds=bounds, method="bounded").x)


class Reliability:
    """Adds up what the expected calibration error is made of; confidence = max softmax(scores / temperature).

    Cosine scores at temperature 1 keep every confidence near 1/C: the error is then little more than the accuracy. Fit
    the temperature.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self._temperature, self._images = temperature, 0
        # On the processor, in double precision: sums over bins have no fixed order on a GPU.
        self._surplus = torch.zeros(ECE_BINS, dtype=torch.float64)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: scores [B,C], labels [B]."""
        probabilities = torch.softmax(scores.detach().to("cpu", torch.float64) / self._temperature, dim=1)
        confidence, predicted = probabilities.max(dim=1)
        self._images += len(labels)
        if not confidence.isfinite().all():
            self._surplus.fill_(math.nan)
            return
        bins = (confidence * ECE_BINS).ceil().long() - 1
        self._surplus.index_add_(0, bins, (predicted == labels.cpu()).double() - confidence)

    def ece(self) -> float:
        """In percent: the mean over images of |accuracy - mean confidence| of their bins, 15 of equal width on (0,1].

        NaN for scores that are not finite, as after a few steps of a deep network with batch normalisation.
        """
        return 100 * float(self._surplus.abs().sum()) / self._images
