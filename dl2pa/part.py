"""Which images of every batch a process works on, where several train one run (ranks.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The rows of every batch that a rank works on: consecutive ones, and with unequal parts the first are the larger.

    ``partner``: it also needs the row before its first, which mixup mixes that one with.
    """

    rank: int = 0
    world: int = 1
    partner: bool = False

    def rows(self, size: int) -> slice:
        """The rows, of ``size``; all of them, on every rank, where there are fewer than ranks: evaluation's last."""
        if size < self.world:
            return slice(0, size)
        least, more = divmod(size, self.world)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def of(self, batch: Tensor) -> Tensor:
        """The rows of ``batch`` [B, ...] to load."""
        if self.world == 1:
            return batch
        rows = self.rows(len(batch))
        if not self.partner:
            return batch[rows]
        return batch[torch.arange(rows.start - 1, rows.stop, device=batch.device) % len(batch)]

    def own(self, loaded: Tensor) -> Tensor:
        """What is left of the loaded rows once they are mixed."""
        return loaded[1:] if self.partner and self.world > 1 else loaded

    def weighted(self, loss: Tensor, size: int, reduction: str) -> Tensor:
        """The loss of the part, so weighted that its gradients' mean over the ranks is that of the batch's loss."""
        if self.world == 1:
            return loss
        rows = self.rows(size)
        return loss * (self.world if reduction == "sum" else self.world * (rows.stop - rows.start) / size)


WHOLE = Part()
