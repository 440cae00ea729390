"""Learning-rate factor as a pure function of where a run is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up times shape. All times are shares of ``epochs``, so a shorter run sees the same curve.

    shape: step (times gamma from each milestone on), cosine or linear (from 1 after the warm-up down to 0).
    per: "epoch" holds the factor of an epoch's number through the epoch, as the published recipes do; "step" moves
    with every step.
    """

    shape: str
    epochs: int
    per: str = "epoch"
    warmup: float = 0.0
    milestones: Sequence[float] = ()
    gamma: float = 0.1

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """For step ``step`` of ``steps`` in epoch ``epoch``, all counted from 0."""
        now = epoch + (step / steps if self.per == "step" else 0.0)
        grain = 1 / steps if self.per == "step" else 1.0
        warm = self.warmup * self.epochs
        if round(now + grain - warm, 6) <= 0:
            return min(1.0, (now + grain) / warm)  # rises to 1 in the last of the warm-up, as ETF's lr * e / 5 does
        if self.shape == "step":
            # A milestone of 0.4 in 250 epochs is 100 and not 100.00000000000001.
            passed = sum(now >= round(milestone * self.epochs, 6) for milestone in self.milestones)
            return float(self.gamma**passed)
        # A warm-up may end in the middle of an epoch or step, or with the run.
        left = 1 - max(0.0, now - warm) / (self.epochs - warm) if warm < self.epochs else 1.0
        return 0.5 * (1 - math.cos(math.pi * left)) if self.shape == "cosine" else left
