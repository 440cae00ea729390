"""Learning-rate factor as a pure function of where a run is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up times shape. All times are shares of ``epochs``, so a shorter run sees the same curve.

    shape: step (times gamma from each milestone on), cosine or linear (from 1 after the warm-up down to ``floor``).
    per: "epoch" holds the factor of an epoch's number through the epoch, as the published recipes do; "step" moves
    with every step.
    warmup_start: factor of the warm-up's first epoch (or step), and 1 comes right after its last. With 0, which would
    train nothing, the first of n has 1 / n and the last 1, as ETF's lr * e / 5 does.
    """

    shape: str
    epochs: int
    per: str = "epoch"
    warmup: float = 0.0
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    warmup_start: float = 0.0
    floor: float = 0.0

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """For step ``step`` of ``steps`` in epoch ``epoch``, all counted from 0."""
        now = epoch + (step / steps if self.per == "step" else 0.0)
        grain = 1 / steps if self.per == "step" else 1.0
        warm = self.warmup * self.epochs
        risen = now + (grain if self.warmup_start == 0 else 0.0)
        if warm > 0 and round(risen - warm, 6) <= 0:
            return min(1.0, self.warmup_start + (1 - self.warmup_start) * risen / warm)
        if self.shape == "step":
            # A milestone of 0.4 in 250 epochs is 100 and not 100.00000000000001.
            passed = sum(now >= round(milestone * self.epochs, 6) for milestone in self.milestones)
            return float(self.gamma**passed)
        # A warm-up may end in the middle of an epoch or step, or with the run.
        left = 1 - max(0.0, now - warm) / (self.epochs - warm) if warm < self.epochs else 1.0
        fallen = 0.5 * (1 - math.cos(math.pi * left)) if self.shape == "cosine" else left
        return self.floor + (1 - self.floor) * fallen
