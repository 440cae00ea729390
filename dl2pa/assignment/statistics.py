"""What the matching is decided on: one score for every (class, prototype), gathered while the network trains.

A statistic sees every batch once, without gradients, and answers with a score matrix. ``share`` [B, C] says how much of
image b counts for class c: one for its label, or with mixup lambda and 1 - lambda for its two labels; each column times
the class's weight where the loss has class weights, which directions do not feel. Where a batch holds few of the
classes, ``share`` [B, n] has columns for ``classes`` [n] alone (``Target.share_of_present``): at C=1000, B=128 that
makes a step's products 8 times cheaper. A class that stands twice in ``classes`` has its share in one column and zeros
in the other, so that adding up the columns' rows by class is exact in any order, on a GPU too.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa.assignment.large import LARGE, Pairs, Product, Table


class Statistic(nn.Module, ABC):
    """Interface; the buffers are part of the checkpoint, so that a resumed epoch goes on where it stopped.

    ``weighted``: whether images count by their class's weight in the loss. Directions do not: a batch's weights would
    make a mean over the epoch one over its batches.
    """

    weighted = False

    @abstractmethod
    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        """Take in one batch: unit features [B, d], the loss of calling image b class c [B, C], share [B, C].

        With ``classes`` [n], share is [B, n] and says so for these classes.
        """

    @abstractmethod
    def seen(self) -> Tensor:
        """[C] bool: the classes about which anything is known."""

    def reassign(self, old: Tensor, new: Tensor) -> None:
        """The assignment changes from ``old`` to ``new``, with every=step in the middle of an epoch."""

    def end_epoch(self) -> None:
        """Forget what belongs to the epoch that has just ended."""


class Scores(Statistic):
    """A statistic that scores every prototype for every class; Confusion, which compares classes alone, does not."""

    @abstractmethod
    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        """[C, C]: how well each prototype (column; prototypes is [C, d]) suits each class (row)."""

    def matchable(self, prototypes: Tensor, assignment: Tensor) -> np.ndarray | Pairs:
        """The score as ``match`` takes it: an array, and from ``LARGE`` classes on what stands for one."""
        if len(prototypes) < LARGE:
            return self.score(prototypes, assignment).double().cpu().numpy()
        return self._pairs(prototypes, assignment)

    @abstractmethod
    def _pairs(self, prototypes: Tensor, assignment: Tensor) -> Pairs:
        """The score, without a second matrix [C, C]."""


def _rows(table: Tensor, classes: Tensor | None) -> Tensor:
    return table if classes is None else table[classes]


def _add(table: Tensor, rows: Tensor, classes: Tensor | None) -> None:
    """table[classes] += rows, in place."""
    if classes is None:
        table += rows
    else:
        table.index_add_(0, classes, rows)


class Directions(Scores):
    """A statistic that knows a direction for each class: score = unit(direction_c) . w_p."""

    @abstractmethod
    def means(self) -> Tensor:
        """[C, d] unit direction of each class; zero for a class of which nothing is known."""

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        return self.means() @ prototypes.T

    def _pairs(self, prototypes: Tensor, assignment: Tensor) -> Pairs:
        return Product(self.means(), prototypes)


class EpochMean(Directions):
    """Exact mean direction of each class over the epoch."""

    def __init__(self, num_classes: int, dimension: int) -> None:
        super().__init__()
        self.sums: Tensor
        self.counts: Tensor
        self.register_buffer("sums", torch.zeros(num_classes, dimension))
        self.register_buffer("counts", torch.zeros(num_classes))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        _add(self.sums, share.T @ features, classes)
        _add(self.counts, share.sum(dim=0), classes)

    def means(self) -> Tensor:
        return F.normalize(self.sums, dim=1)

    def similarity(self) -> Tensor:
        """[C, C] cosines of the class means."""
        means = self.means()
        return means @ means.T

    def seen(self) -> Tensor:
        return self.counts > 0

    def end_epoch(self) -> None:
        self.sums.zero_()
        self.counts.zero_()


class LossMatrix(Scores):
    """The training loss itself: score[c, p] = - sum over images of class c of their loss at prototype p.

    The sums are divided by the number of images per class seen, so that the mean of the scores of a matching is minus
    the mean loss of an image, however large the data set. (Class weights count as so many images.)

    Matching on it minimises the epoch's loss over the assignment exactly, for the network as it was at every step.
    ``cost`` has its columns in class order, that is column j is prototype assignment[j], and so have the sums; they are
    put in prototype order only when asked, and in another class order when the assignment changes.
    """

    weighted = True

    def __init__(self, num_classes: int, dimension: int) -> None:
        super().__init__()
        self.costs: Tensor
        self.counts: Tensor
        self.register_buffer("costs", torch.zeros(num_classes, num_classes))
        self.register_buffer("counts", torch.zeros(num_classes))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        _add(self.costs, share.T @ cost, classes)
        _add(self.counts, share.sum(dim=0), classes)

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        score = torch.empty_like(self.costs)
        score[:, assignment] = -self.costs / self._images_per_class()
        return score

    def _pairs(self, prototypes: Tensor, assignment: Tensor) -> Pairs:
        every = torch.arange(len(assignment), device=assignment.device)
        return Table(self.costs, every, assignment.argsort(), -1 / float(self._images_per_class()))

    def _images_per_class(self) -> Tensor:
        return self.counts.sum() / self.seen().sum()

    def seen(self) -> Tensor:
        return self.counts > 0

    def reassign(self, old: Tensor, new: Tensor) -> None:
        self.costs.copy_(self.costs[:, old.argsort()[new]])

    def end_epoch(self) -> None:
        self.costs.zero_()
        self.counts.zero_()


class Ema(Directions):
    """q_c <- unit(m q_c + (1 - m) mean of the batch's class c), as in the paper's figure; starts at the first mean."""

    def __init__(self, num_classes: int, dimension: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.queue: Tensor
        self.register_buffer("queue", torch.zeros(num_classes, dimension))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        count = share.sum(dim=0).unsqueeze(1)
        mean = share.T @ features / count.clamp(min=torch.finfo(features.dtype).tiny)
        old = _rows(self.queue, classes)
        moved = F.normalize(self.momentum * old + (1 - self.momentum) * mean, dim=1)
        _add(self.queue, torch.where(count > 0, moved - old, 0), classes)

    def means(self) -> Tensor:
        return self.queue

    def seen(self) -> Tensor:
        return self.queue.any(dim=1)


class Queue(Directions):
    """The released code's rule, faults included (docs/compat.md).

    The indexed add-assign makes it q_c <- unit((1 + m) q_c + (1 - m) x), x being the last image of class c in the batch
    (on a GPU the reference keeps any one of them); all rows are normalised after each batch, and they start as
    un-normalised Gaussians, so that an unseen class is matched by noise.
    """

    def __init__(self, num_classes: int, dimension: int, momentum: float, generator: torch.Generator) -> None:
        super().__init__()
        self.momentum = momentum
        self.queue: Tensor
        self.register_buffer("queue", torch.randn(num_classes, dimension, generator=generator))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        image = torch.arange(1, len(share) + 1, device=share.device).unsqueeze(1)
        last = torch.where(share > 0, image, 0).amax(dim=0)  # [n]; 0 for a class that is not in the batch
        newest = features[(last - 1).clamp(min=0)]
        step = self.momentum * _rows(self.queue, classes) + (1 - self.momentum) * newest
        _add(self.queue, torch.where((last > 0).unsqueeze(1), step, 0), classes)
        self.queue.copy_(F.normalize(self.queue, dim=1))

    def means(self) -> Tensor:
        return self.queue

    def seen(self) -> Tensor:
        return torch.ones(len(self.queue), dtype=torch.bool, device=self.queue.device)


class Confusion(Statistic):
    """Which class each training image is taken for: share of class c's images that are predicted as class c'.

    An image is taken for the class that it costs least to call it.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(num_classes, num_classes))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        predicted = cost.argmin(dim=1, keepdim=True) == torch.arange(cost.shape[1], device=cost.device)
        _add(self.counts, share.T @ predicted.to(share.dtype), classes)

    def similarity(self) -> Tensor:
        """[C, C] symmetric: the mean of the two shares by which classes c and c' are taken for each other."""
        rate = self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=torch.finfo(self.counts.dtype).tiny)
        return (rate + rate.T) / 2

    def seen(self) -> Tensor:
        return self.counts.sum(dim=1) > 0

    def end_epoch(self) -> None:
        self.counts.zero_()


def build_statistic(name: str, num_classes: int, dimension: int, momentum: float, generator: torch.Generator) -> Scores:
    """The statistic called ``name``: queue, ema, epoch_mean or loss_matrix."""
    if name == "queue":
        return Queue(num_classes, dimension, momentum, generator)
    if name == "ema":
        return Ema(num_classes, dimension, momentum)
    return {"epoch_mean": EpochMean, "loss_matrix": LossMatrix}[name](num_classes, dimension)
