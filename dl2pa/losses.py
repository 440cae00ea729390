"""Losses as a matrix: cost[b, c] is what it costs to call image b class c.

One form serves every use: the training loss picks the columns of an image's labels (two with mixup), and the
loss-matrix assignment sums the same numbers over a class.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.errors import UserError

# (scores [B, C], features [B, d], labels [B]) -> cost [B, C], and how much each class's cost counts: [C], None is one
Cost = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


class Target(NamedTuple):
    """What a batch should be called: ``labels`` [B] with share ``lam``, ``other`` [B] with the rest; or labels alone.

    ``weights`` [C] say by how much the cost of an image of each class counts; None is one.
    """

    labels: Tensor
    other: Tensor | None = None
    lam: Tensor | None = None
    weights: Tensor | None = None

    def share(self, num_classes: int, mixed: bool = True) -> Tensor:
        """[B, C], rows summing to one; with ``mixed`` false everything counts for the first label."""
        return self._share(torch.arange(num_classes, device=self.labels.device), mixed)

    def share_of_present(self, num_classes: int, mixed: bool = True) -> tuple[Tensor, Tensor | None]:
        """The columns [B, n] of ``share`` for all labels [n] of the batch, and those, where they are fewer than C; a
        label that stands again has a column of zeros there. Else ``share`` and None."""
        labels = self.labels if self.other is None else torch.cat([self.labels, self.other])
        if len(labels) >= num_classes:
            return self.share(num_classes, mixed), None
        again = (labels.unsqueeze(1) == labels).tril(-1).any(dim=1)
        return self._share(labels, mixed).masked_fill(again, 0), labels

    def _share(self, classes: Tensor, mixed: bool) -> Tensor:
        share = _matches(self.labels, classes)
        if mixed and self.other is not None and self.lam is not None:
            share = self.lam * share + (1 - self.lam) * _matches(self.other, classes)
        return share

    def rows(self, rows: slice) -> "Target":
        """The same for ``rows`` of the batch alone."""
        other = None if self.other is None else self.other[rows]
        return self._replace(labels=self.labels[rows], other=other)

    def dominant(self) -> Tensor:
        """[B], the label with the larger share in each image."""
        if self.other is None or self.lam is None:
            return self.labels
        return torch.where(self.lam >= 0.5, self.labels, self.other)


def membership(labels: Tensor, num_classes: int) -> Tensor:
    """[B, C] float, one where the label is the class. (F.one_hot and bincount read back from the device.)"""
    return _matches(labels, torch.arange(num_classes, device=labels.device))


def _matches(labels: Tensor, classes: Tensor) -> Tensor:
    return (labels.unsqueeze(1) == classes).float()


def squared_cosine(scores: Tensor) -> Tensor:
    """(1 - cos)^2 (HPN, Mettes et al. 2019; DL2PA). ``scores`` are cosines."""
    return (1 - scores).square()


def dot_regression(scores: Tensor, features: Tensor) -> Tensor:
    """Dot regression (Yang et al. 2022): 1/2 (h.m_c - |m_c| |h|)^2 / |h| with m_c = E_c w_c, |h| detached.

    E_c^2 stands before the whole and is left to ``Target.weights``: it belongs to the class of an image, also where the
    loss matrix asks what the image would cost at another class's prototype. ``scores`` are h.w_c for unit w_c.
    """
    length = features.norm(dim=1, keepdim=True).detach()
    return 0.5 * (scores - length).square() / length.clamp(min=torch.finfo(length.dtype).tiny)


def inverse_frequency(counts: Tensor) -> Tensor:
    """E_c^2 [C] of dot regression, (B / K) / n_c, from the class counts n_c [C] of a batch (or of all training images).

    K is the number of classes present, so that every class present has the same total weight; it is 1 for absent ones.
    """
    present = counts > 0
    return torch.where(present, counts.sum() / present.sum() / counts.clamp(min=1), 1.0)


def cross_entropy(
    scores: Tensor, temperature: float = 1.0, smoothing: float = 0.0, bias: Tensor | None = None
) -> Tensor:
    """-log softmax(scores / temperature + bias), with bias [C] (None is zero).

    ``smoothing`` e takes the targets (1 - e) one-hot + e / C (Szegedy et al. 2016).
    """
    logits = scores / temperature
    cost = -F.log_softmax(logits if bias is None else logits + bias, dim=1)
    return cost if smoothing == 0 else (1 - smoothing) * cost + smoothing * cost.mean(dim=1, keepdim=True)


def log_prior(counts: Tensor) -> Tensor:
    """[C], the log share of each class in the training images ``counts`` [C]; raises UserError if one has none."""
    if (empty := (counts == 0).nonzero().flatten().tolist()) != []:
        raise UserError(
            f"loss.adjust needs training images of every class, and class {empty[0]} has none: use loss.adjust=0"
        )
    return (counts / counts.sum()).log()


def reduce(cost: Tensor, target: Target, reduction: str) -> Tensor:
    """The batch's loss, a scalar: the mean (or sum) over images of lam cost[label] + (1 - lam) cost[other label]."""
    if target.weights is not None:
        cost = cost * target.weights
    loss = cost.gather(1, target.labels.unsqueeze(1))
    if target.other is not None and target.lam is not None:
        loss = target.lam * loss + (1 - target.lam) * cost.gather(1, target.other.unsqueeze(1))
    return loss.sum() if reduction == "sum" else loss.mean()


def build_cost(
    name: str, weights: str, temperature: float, train_counts: Tensor, smoothing: float = 0.0, adjust: float = 0.0
) -> Cost:
    """The cost called ``name``; ``train_counts`` [C], on the device, serve weights=global and adjust.

    With weights=batch, dot regression counts the batch's ``labels`` (with mixup the unmixed first ones).

    ``adjust`` times the log prior is added to cross_entropy's logits (logit adjustment, Menon et al. 2021, eq. 10; one
    is the balanced softmax of Ren et al. 2020). It is part of the loss alone: predictions use the scores as they are.
    """
    if name == "squared_cosine":
        return lambda scores, features, labels: (squared_cosine(scores), None)
    if name == "cross_entropy":
        bias = None if adjust == 0 else adjust * log_prior(train_counts)
        return lambda scores, features, labels: (cross_entropy(scores, temperature, smoothing, bias), None)
    fixed = inverse_frequency(train_counts)

    def weighted(scores: Tensor, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        counts = membership(labels, scores.shape[1]).sum(dim=0).to(scores.dtype)
        return dot_regression(scores, features), fixed if weights == "global" else inverse_frequency(counts)

    return weighted
