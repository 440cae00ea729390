"""When classes are matched to prototypes, and what is told about it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dl2pa.assignment.matching import match
from dl2pa.assignment.statistics import EpochMean, Statistic


@dataclass(frozen=True)
class Timetable:
    """Matching happens after every ``every``-th epoch (or after each step) between two shares of the run."""

    epochs: int
    every: int | str = 1
    warmup: float = 0.0
    freeze_after: float = 1.0

    def open(self, epochs: int) -> bool:
        """Whether classes may move once ``epochs`` epochs are over."""
        # A share of 0.29 in 100 epochs is 29 and not 28.999999999999996.
        return round(self.warmup * self.epochs, 6) <= epochs <= round(self.freeze_after * self.epochs, 6)

    def after_epoch(self, epoch: int) -> bool:
        """Whether to match now that ``epoch`` is over: not after the last, whose result nothing would train with."""
        done = epoch + 1
        return self.every != "step" and self.open(done) and done % int(self.every) == 0 and done < self.epochs

    def empty(self) -> bool:
        """Whether no matching takes place at all."""
        return not any(self.after_epoch(epoch) or self.after_step(epoch) for epoch in range(self.epochs))

    def after_step(self, epoch: int) -> bool:
        return self.every == "step" and self.open(epoch) and self.open(epoch + 1)


class Assigner(nn.Module):
    """Holds sigma [C] (class c owns prototype sigma[c]) and moves it; with no statistic sigma never moves.

    Everything that a resumed run needs is a buffer: sigma, the first sigma, and the statistics of the epoch under way.
    """

    def __init__(
        self, sigma: Tensor, dimension: int, timetable: Timetable, statistic: Statistic | None, hysteresis: float = 0.0
    ) -> None:
        super().__init__()
        self.timetable = timetable
        self.hysteresis = hysteresis
        self.statistic = statistic
        # Class means are kept for every statistic, static assignment included: the diagnostics are read off them.
        self.means = statistic if isinstance(statistic, EpochMean) else EpochMean(len(sigma), dimension)
        self.sigma: Tensor
        self.first: Tensor
        self.moved_in_epoch: Tensor
        self.register_buffer("sigma", sigma.clone())
        self.register_buffer("first", sigma.clone())
        self.register_buffer("moved_in_epoch", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def observe(
        self,
        prototypes: Tensor,
        features: Tensor,
        cost: Tensor,
        share: Tensor,
        epoch: int,
        weights: Tensor | None = None,
    ) -> None:
        """Take in one training batch (see Statistic.observe); with every=step, match at once.

        ``weights`` [C] say by how much the cost of an image of each class counts in the loss; None is one.
        """
        self.means.observe(features, cost, share)
        if self.statistic is not None and self.statistic is not self.means:
            self.statistic.observe(features, cost, share if weights is None else share * weights)
        if self.statistic is not None and self.timetable.after_step(epoch):
            self.moved_in_epoch += self._match(prototypes)[0]

    @torch.no_grad()
    def end_epoch(self, prototypes: Tensor, epoch: int) -> dict[str, float]:
        """Match if it is time, forget the epoch's statistics, and report.

        Returns: moved (classes that changed prototype), value_before and value_after (mean score of the matching; only
        when one took place), cosine_mean and cosine_min (class mean to the prototype it was trained towards, over the
        classes seen), overlap_first (share of classes that own the prototype they began with).
        """
        cosine = (self.means.means() * prototypes[self.sigma]).sum(dim=1)[self.means.seen()]
        report = {"cosine_mean": cosine.mean().item(), "cosine_min": cosine.min().item()} if len(cosine) else {}
        moved = int(self.moved_in_epoch)
        if self.statistic is not None and self.timetable.after_epoch(epoch):
            moved, report["value_before"], report["value_after"] = self._match(prototypes)
        self.moved_in_epoch.zero_()
        self.means.end_epoch()
        if self.statistic is not None and self.statistic is not self.means:
            self.statistic.end_epoch()
        overlap = (self.sigma == self.first).double().mean().item()
        return {"moved": moved, "overlap_first": overlap, **report}

    def _match(self, prototypes: Tensor) -> tuple[int, float, float]:
        assert self.statistic is not None
        seen = self.statistic.seen()
        score = self.statistic.score(prototypes, self.sigma).double()
        new = torch.from_numpy(
            match(score.cpu().numpy(), self.sigma.cpu().numpy(), seen.cpu().numpy(), self.hysteresis)
        ).to(self.sigma.device)
        rows = torch.arange(len(new), device=new.device)[seen]
        before, after = (score[rows, s[rows]].mean().item() if len(rows) else math.nan for s in (self.sigma, new))
        moved = int((new != self.sigma).sum())
        self.statistic.reassign(self.sigma, new)
        self.sigma.copy_(new)
        return moved, before, after
