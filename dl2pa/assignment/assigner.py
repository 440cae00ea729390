"""When classes are matched to prototypes, and what is told about it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dl2pa.assignment.matching import match
from dl2pa.assignment.rotation import rotate_and_match
from dl2pa.assignment.statistics import Directions, Scores, Statistic


@dataclass(frozen=True)
class Timetable:
    """Matching happens after every ``every``-th epoch (or after each step) between two shares of the run.

    ``learn`` is the share of the epochs for which class vectors are learned (learned.py): until then nothing is
    matched, and then always.
    """

    epochs: int
    every: int | str = 1
    warmup: float = 0.0
    freeze_after: float = 1.0
    learn: float = 0.0

    @property
    def learned(self) -> int:
        """Epochs for which class vectors are learned: where any are, at least one, and one remains for prototypes."""
        return min(max(1, round(self.learn * self.epochs)), self.epochs - 1) if self.learn > 0 else 0

    def open(self, epochs: int) -> bool:
        """Whether classes may move once ``epochs`` epochs are over."""
        # A share of 0.29 in 100 epochs is 29 and not 28.999999999999996.
        return round(self.warmup * self.epochs, 6) <= epochs <= round(self.freeze_after * self.epochs, 6)

    def after_epoch(self, epoch: int) -> bool:
        """Whether to match now that ``epoch`` is over: not after the last, whose result nothing would train with."""
        done = epoch + 1
        if done <= self.learned:
            return done == self.learned
        return self.every != "step" and self.open(done) and done % int(self.every) == 0 and done < self.epochs

    def after_step(self, epoch: int) -> bool:
        """Whether to match after the steps of ``epoch``."""
        return self.every == "step" and epoch >= self.learned and self.open(epoch) and self.open(epoch + 1)

    def empty(self) -> bool:
        """Whether no matching takes place at all."""
        return not any(self.after_epoch(epoch) or self.after_step(epoch) for epoch in range(self.epochs))


class Assigner(nn.Module):
    """Holds sigma [C] (class c owns prototype sigma[c]) and moves it; with no statistic sigma never moves.

    Everything that a resumed run needs is a buffer: sigma, the first sigma, and the statistics of the epoch under way.

    ``rotate`` turns all prototypes as one body, too, so that they suit the classes better (rotation.py).
    """

    def __init__(
        self,
        sigma: Tensor,
        timetable: Timetable,
        statistic: Statistic | None,
        hysteresis: float = 0.0,
        rotate: bool = False,
    ) -> None:
        super().__init__()
        self.timetable = timetable
        self.hysteresis = hysteresis
        self.rotate = rotate
        self.statistic = statistic
        self.sigma: Tensor
        self.first: Tensor
        self.began: Tensor
        self.register_buffer("sigma", sigma.clone())
        self.register_buffer("first", sigma.clone())
        self.register_buffer("began", sigma.clone())  # the epoch with it

    def class_vectors(self, prototypes: Tensor) -> Tensor:
        """[C, d] unit vectors that images are compared with: the prototype that each class owns."""
        return prototypes[self.sigma]

    def owned(self) -> Tensor | None:
        """[C], the prototype that each class owns; None while classes own none."""
        return self.sigma

    @torch.no_grad()
    def observe(
        self,
        features: Tensor,
        cost: Tensor,
        share: Tensor,
        classes: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Take in one training batch (see Statistic.observe).

        ``weights`` [C] say by how much the cost of an image of each class counts in the loss; None is one.
        """
        if self.statistic is None:
            return
        if weights is not None and classes is not None:
            weights = weights[classes]
        if weights is not None and self.statistic.weighted:
            share = share * weights
        self.statistic.observe(features, cost, share, classes)

    def matches_after_step(self, epoch: int) -> bool:
        return self.statistic is not None and self.timetable.after_step(epoch)

    @torch.no_grad()
    def end_step(self, prototypes: Tensor, epoch: int) -> None:
        """With every=step, match."""
        if self.matches_after_step(epoch):
            self._match(prototypes, epoch)

    @torch.no_grad()
    def end_epoch(self, prototypes: Tensor, epoch: int) -> dict[str, float]:
        """Match if it is time, forget the epoch's statistics, and report. With rotate, ``prototypes`` turn in place.

        Returns: moved (classes that own another prototype than when the epoch began), value_before and value_after
        (mean score of the matching; only when one took place), overlap_first (share of classes that own the prototype
        they had first), and what the kind of matching tells about itself.
        """
        report: dict[str, float] = {}
        if self.statistic is not None:
            if self.timetable.after_epoch(epoch):
                report = self._match(prototypes, epoch)
            self.statistic.end_epoch()
        moved, same = int((self.sigma != self.began).sum()), (self.sigma == self.first).double().mean().item()
        self.began.copy_(self.sigma)
        return {"moved": moved, "overlap_first": same, **report}

    def _match(self, prototypes: Tensor, epoch: int) -> dict[str, float]:
        """Move sigma, and report what ``_decide`` tells."""
        assert self.statistic is not None
        new, report = self._decide(prototypes, self.sigma.cpu().numpy(), self.statistic.seen().cpu().numpy())
        sigma = torch.from_numpy(new).to(self.sigma.device)
        self.statistic.reassign(self.sigma, sigma)
        self.sigma.copy_(sigma)
        return report

    def _least_gain(self) -> float:
        """The mean gain that moves classes has to be over this."""
        return self.hysteresis

    def _decide(self, prototypes: Tensor, old: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """The next sigma, and value_before and value_after."""
        assert isinstance(self.statistic, Scores)

        classes = np.flatnonzero(seen)

        def value(sigma: np.ndarray) -> float:
            return float(score[classes, sigma[classes]].mean()) if len(classes) > 0 else math.nan

        score = self.statistic.matchable(prototypes, self.sigma)
        before = value(old)
        if not self.rotate:
            new = match(score, old, seen, self._least_gain())
            return new, {"value_before": before, "value_after": value(new)}
        assert isinstance(self.statistic, Directions)
        means, points = (x.double().cpu().numpy() for x in (self.statistic.means(), prototypes))
        new, rotation = rotate_and_match(means, points, old, seen, self._least_gain())
        turned = points @ rotation.T
        after = float((means[classes] * turned[new[classes]]).sum(axis=1).mean()) if len(classes) > 0 else math.nan
        prototypes.copy_(torch.from_numpy(turned))
        angle = np.degrees(np.arccos(np.clip((turned * points).sum(axis=1), -1, 1))).mean()
        return new, {"value_before": before, "value_after": after, "rotation_degrees": float(angle)}
