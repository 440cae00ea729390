"""Soft assignment that hardens: every class is drawn towards a blend of prototypes until it owns one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import Directions

FALL = 100.0  # tau falls by this factor over the timetable; its last plan is the matching, which is tau = 0
ROUNDS = 20  # at each temperature on the way down to tau


def plan(score: Tensor, tau: float) -> Tensor:
    """pi = argmax over doubly stochastic pi of sum_cp pi_cp score[c, p] + tau H(pi)  (Sinkhorn; Cuturi 2013).

    In the log domain, float64, from temperature 1 down to ``tau`` by halves, which reaches small tau in far fewer
    rounds than starting there.

    Args:
        score: [n, n] cosines.
        tau: temperature over 0.

    Returns:
        [n, n]; rows sum to one, columns to one up to what ``ROUNDS`` leave open.
    """
    score = score.double()
    columns = torch.zeros_like(score[0])
    temperature = max(tau, 1.0)
    while True:
        for _ in range(ROUNDS):
            rows = -temperature * ((score + columns) / temperature).logsumexp(dim=1, keepdim=True)
            columns = -temperature * ((score + rows) / temperature).logsumexp(dim=0)
        if temperature == tau:
            return ((score + columns) / tau).softmax(dim=1)
        temperature = max(temperature / 2, tau)


class Sinkhorn(Assigner):
    """Class c is trained towards unit(sum_p pi_cp w_p), with pi the plan of the class means' scores.

    tau falls geometrically from matching to matching, and at the last one of the timetable pi is the exact matching.
    sigma is the matching of the same scores all along. Until the first one, classes own the prototypes they begin with;
    a class that was not seen keeps its prototype.
    """

    def __init__(
        self, prototypes: Tensor, sigma: Tensor, timetable: Timetable, statistic: Directions, tau: float
    ) -> None:
        super().__init__(sigma, timetable, statistic)
        self.tau = tau
        self.times = [epoch for epoch in range(timetable.epochs) if timetable.after_epoch(epoch)]
        self.targets: Tensor
        self.register_buffer("targets", prototypes[sigma])

    def class_vectors(self, prototypes: Tensor) -> Tensor:
        return self.targets

    def _match(self, prototypes: Tensor, epoch: int) -> dict[str, float]:
        assert isinstance(self.statistic, Directions)
        seen, score = self.statistic.seen(), self.statistic.score(prototypes, self.sigma)
        report = super()._match(prototypes, epoch)
        targets = prototypes[self.sigma]
        tau = self._temperature(epoch)
        if tau > 0 and seen.any() and score[seen].isfinite().all():
            owned = self.sigma[seen]
            soft = plan(score[seen][:, owned], tau)
            blend = soft.to(prototypes.dtype) @ prototypes[owned]
            # Where the prototypes cancel out there is no direction to train towards.
            found = blend.norm(dim=1, keepdim=True) > 1e-6
            targets[seen] = torch.where(found, F.normalize(blend, dim=1), targets[seen])
            report["plan_entropy"] = torch.special.entr(soft).sum(dim=1).mean().item()
        self.targets.copy_(targets)
        return {**report, "tau": tau}

    def _temperature(self, epoch: int) -> float:
        """Zero at the last of the times, and for the others tau FALL^(- share of the way there)."""
        way = self.times.index(epoch) / (len(self.times) - 1) if len(self.times) > 1 else 1.0
        return 0.0 if way == 1 else float(self.tau * FALL**-way)
