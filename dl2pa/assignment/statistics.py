"""What the matching is decided on: one score for every (class, prototype), gathered while the network trains.

A statistic sees every batch once, without gradients, and answers with a score matrix. ``share`` [B, C] says how much of
image b counts for class c: one for its label, or with mixup lambda and 1 - lambda for its two labels; each column times
the class's weight where the loss has class weights, which directions do not feel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Statistic(nn.Module):
    """Interface; the buffers are part of the checkpoint, so that a resumed epoch goes on where it stopped."""

    def observe(self, features: Tensor, cost: Tensor, share: Tensor) -> None:
        """Take in one batch: unit features [B, d], the loss of calling image b class c [B, C], share [B, C]."""
        raise NotImplementedError

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        """[C, C]: how well each prototype (column; prototypes is [C, d]) suits each class (row)."""
        raise NotImplementedError

    def seen(self) -> Tensor:
        """[C] bool: the classes about which anything is known."""
        raise NotImplementedError

    def reassign(self, old: Tensor, new: Tensor) -> None:
        """The assignment changes from ``old`` to ``new``, with every=step in the middle of an epoch."""

    def end_epoch(self) -> None:
        """Forget what belongs to the epoch that has just ended."""


class EpochMean(Statistic):
    """Exact mean direction of each class over the epoch: score = unit(mean_c) . w_p."""

    def __init__(self, num_classes: int, dimension: int) -> None:
        super().__init__()
        self.sums: Tensor
        self.counts: Tensor
        self.register_buffer("sums", torch.zeros(num_classes, dimension))
        self.register_buffer("counts", torch.zeros(num_classes))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor) -> None:
        self.sums += share.T @ features  # a product, not index_add_, which is not deterministic on a GPU
        self.counts += share.sum(dim=0)

    def means(self) -> Tensor:
        """[C, d] unit mean of each class; zero for a class not seen."""
        return F.normalize(self.sums, dim=1)

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        return self.means() @ prototypes.T

    def seen(self) -> Tensor:
        return self.counts > 0

    def end_epoch(self) -> None:
        self.sums.zero_()
        self.counts.zero_()


class LossMatrix(Statistic):
    """The training loss itself: score[c, p] = - sum over images of class c of their loss at prototype p.

    Matching on it minimises the epoch's loss over the assignment exactly, for the network as it was at every step.
    ``cost`` has its columns in class order, that is column j is prototype assignment[j], and so have the sums; they are
    put in prototype order only when asked, and in another class order when the assignment changes.
    """

    def __init__(self, num_classes: int, dimension: int) -> None:
        super().__init__()
        self.costs: Tensor
        self.counts: Tensor
        self.register_buffer("costs", torch.zeros(num_classes, num_classes))
        self.register_buffer("counts", torch.zeros(num_classes))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor) -> None:
        self.costs += share.T @ cost
        self.counts += share.sum(dim=0)

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        score = torch.empty_like(self.costs)
        score[:, assignment] = -self.costs
        return score

    def seen(self) -> Tensor:
        return self.counts > 0

    def reassign(self, old: Tensor, new: Tensor) -> None:
        by_prototype = torch.empty_like(self.costs)
        by_prototype[:, old] = self.costs
        self.costs.copy_(by_prototype[:, new])

    def end_epoch(self) -> None:
        self.costs.zero_()
        self.counts.zero_()


class Ema(Statistic):
    """q_c <- unit(m q_c + (1 - m) mean of the batch's class c), as in the paper's figure; starts at the first mean."""

    def __init__(self, num_classes: int, dimension: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.queue: Tensor
        self.register_buffer("queue", torch.zeros(num_classes, dimension))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor) -> None:
        count = share.sum(dim=0).unsqueeze(1)
        mean = share.T @ features / count.clamp(min=torch.finfo(features.dtype).tiny)
        moved = F.normalize(self.momentum * self.queue + (1 - self.momentum) * mean, dim=1)
        self.queue.copy_(torch.where(count > 0, moved, self.queue))

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        return self.queue @ prototypes.T

    def seen(self) -> Tensor:
        return self.queue.any(dim=1)


class Queue(Statistic):
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

    def observe(self, features: Tensor, cost: Tensor, share: Tensor) -> None:
        image = torch.arange(1, len(share) + 1, device=share.device).unsqueeze(1)
        last = torch.where(share > 0, image, 0).amax(dim=0)  # [C]; 0 for a class that is not in the batch
        newest = features[(last - 1).clamp(min=0)]
        moved = (1 + self.momentum) * self.queue + (1 - self.momentum) * newest
        self.queue.copy_(F.normalize(torch.where((last > 0).unsqueeze(1), moved, self.queue), dim=1))

    def score(self, prototypes: Tensor, assignment: Tensor) -> Tensor:
        return self.queue @ prototypes.T

    def seen(self) -> Tensor:
        return torch.ones(len(self.queue), dtype=torch.bool, device=self.queue.device)


def build_statistic(
    name: str, num_classes: int, dimension: int, momentum: float, generator: torch.Generator
) -> Statistic:
    """The statistic called ``name``: queue, ema, epoch_mean or loss_matrix."""
    if name == "queue":
        return Queue(num_classes, dimension, momentum, generator)
    if name == "ema":
        return Ema(num_classes, dimension, momentum)
    return {"epoch_mean": EpochMean, "loss_matrix": LossMatrix}[name](num_classes, dimension)
