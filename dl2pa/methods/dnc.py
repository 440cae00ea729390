"""Deep nearest centroids (Wang et al., ICLR 2023): a class is its K sub-centroids, which follow the features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa import ranks
from dl2pa.losses import Target, membership
from dl2pa.methods.heads import Head


class NearestCentroidsHead(Head):
    """scores[b] = LayerNorm over the classes of max_k x_b . p_ck, with x = unit(LayerNorm(z)); p gets no gradient.

    Training batches are kept in a bank. When it holds ``bank_batches`` of them, the features of each class are spread
    evenly over its sub-centroids (``balanced_transport``), and p_ck <- unit(m p_ck + (1 - m) unit(sum of the features
    given to it)), where only features count that the head classifies correctly. The bank is then emptied.

    The whole bank is part of a checkpoint, 4 bytes x ``dimension`` an image, so that a resumed run goes on with it.

    Args:
        sub_centroids: K.
        bank_batches: batches between two updates; the released code has 1000 for ResNets, 500 for Swin-T.
        batch_size: the largest number of images in a batch.
        momentum: m; the released code has .999, with which sub-centroids hardly leave their random start.
    """

    def __init__(
        self,
        dimension: int,
        num_classes: int,
        sub_centroids: int,
        *,
        bank_batches: int,
        batch_size: int,
        momentum: float,
    ) -> None:
        super().__init__()
        self.bank_batches = bank_batches
        self.slot = batch_size + 1  # rows of the bank for a batch: the loader adds a lone last image to another one
        self.momentum = momentum
        self.batches = 0  # in the bank; counted here and not on the device, which would have to be waited for
        self.norm = nn.LayerNorm(dimension)
        self.score_norm = nn.LayerNorm(num_classes)
        # The released code's trunc_normal_(std=.02) cuts off at 100 standard deviations: with the length divided out it
        # is this, which is the same numbers in every version of torch.
        start = torch.randn(num_classes, sub_centroids, dimension)
        self.centroids: Tensor
        self.first: Tensor
        self.bank: Tensor
        self.bank_labels: Tensor
        self.register_buffer("centroids", F.normalize(start, dim=2))
        self.register_buffer("first", self.centroids.clone())
        self.start: Tensor  # first row of the next batch, where a compiled step finds it
        self.register_buffer("start", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("bank", torch.zeros(bank_batches * self.slot, dimension))
        self.register_buffer("bank_labels", torch.full((bank_batches * self.slot,), -1))  # -1 is an empty place

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        features = F.normalize(self.norm(embedding), dim=1)
        return features, self._scores(features)

    def _scores(self, features: Tensor) -> Tensor:
        cosines = torch.einsum("bd,ckd->bck", features, self.centroids)
        scores: Tensor = self.score_norm(cosines.amax(dim=2))
        return scores

    @torch.no_grad()
    def observe(self, features: Tensor, cost: Tensor, target: Target) -> None:
        """A mixup image counts for the label that has the larger share in it."""
        rows = self.start + torch.arange(len(features), device=features.device)
        self.bank.index_copy_(0, rows, features)
        self.bank_labels.index_copy_(0, rows, target.dominant())

    @torch.no_grad()
    def end_step(self, epoch: int, last: bool = False) -> None:
        if self.batches + 1 == self.bank_batches:
            ranks.from_first(self._update, [self.centroids])
            self.bank_labels.fill_(-1)
        self.set_extra_state((self.batches + 1) % self.bank_batches)

    def _update(self) -> None:
        own = self.bank_labels.clamp(min=0)
        share = membership(self.bank_labels, len(self.centroids)).to(self.bank.dtype)
        predicted = torch.cat([self._scores(part).argmax(dim=1) for part in self.bank.split(self.slot)])
        correct = share * (predicted == own).unsqueeze(1)
        similarities = torch.cat(
            [
                torch.einsum("nd,nkd->nk", part, self.centroids[label])
                for part, label in zip(self.bank.split(self.slot), own.split(self.slot), strict=True)
            ]
        )
        chosen = balanced_transport(similarities, share).argmax(dim=1)
        for k in range(self.centroids.shape[1]):
            given = correct * (chosen == k).unsqueeze(1)
            mean = F.normalize(given.T @ self.bank, dim=1)
            moved = F.normalize(self.momentum * self.centroids[:, k] + (1 - self.momentum) * mean, dim=1)
            self.centroids[:, k] = torch.where(given.any(dim=0).unsqueeze(1), moved, self.centroids[:, k])

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """cosine_first: mean cosine between the sub-centroids and their random start, one as long as none has moved."""
        return {"cosine_first": (self.centroids * self.first).sum(dim=2).mean().item()}

    def get_extra_state(self) -> int:
        return self.batches

    def set_extra_state(self, state: int) -> None:
        self.batches = state
        self.start.fill_(state * self.slot)


def balanced_transport(similarities: Tensor, share: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Entropic transport of each class's features to its K sub-centroids, each of which takes the same mass.

    Sinkhorn scaling of exp(similarity / epsilon), the simpler of the two solvers in the released code.

    Args:
        similarities: [N, K], cosine of each feature to the sub-centroids of its own class.
        share: [N, C], one where a feature is of the class; rows of zeros are left out.

    Returns: [N, K], rows summing to one.
    """
    plan = ((similarities - 1) / epsilon).exp()  # at most one, and at least exp(-40): no overflow in fp32
    tiny = torch.finfo(plan.dtype).tiny
    for _ in range(iterations):
        plan = plan / (share @ (share.T @ plan)).clamp(min=tiny)
        plan = plan / plan.sum(dim=1, keepdim=True).clamp(min=tiny)
    return plan
