"""A warm-up in which classes find their own places, before each is given the prototype that lies nearest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import Directions


class LearnedWarmup(Assigner):
    """For the first ``timetable.learned`` epochs scores are cosines to learned class vectors, then to prototypes.

    After one epoch of ordinary training the features of a class point at whatever prototype it was given first, and a
    matching tends to confirm it. Learned vectors (a cosine softmax) let similar classes settle side by side; at the end
    of the warm-up classes are matched on the directions of their features, argmax_sigma sum_c q_c . w_sigma(c). On
    those rather than on the vectors: the features are what has to travel to the prototypes, and a vector is also pushed
    away from all other classes. Later matchings follow the timetable.
    """

    def __init__(
        self,
        sigma: Tensor,
        timetable: Timetable,
        statistic: Directions,
        vectors: Tensor,
        hysteresis: float = 0.0,
        rotate: bool = False,
    ) -> None:
        """``vectors`` [C, d] is where the class vectors start; ``sigma`` what unseen classes get at the matching."""
        super().__init__(sigma, timetable, statistic, hysteresis, rotate)
        self.vectors = nn.Parameter(vectors.clone())
        self.learning: Tensor
        self.register_buffer("learning", torch.ones((), dtype=torch.bool))

    def class_vectors(self, prototypes: Tensor) -> Tensor:
        # A selection and not a branch: no step waits for the device, and after the warm-up no gradient comes through.
        return torch.where(self.learning, F.normalize(self.vectors, dim=1), prototypes[self.sigma])

    def owned(self) -> Tensor | None:
        return None if self.learning else self.sigma

    def _least_gain(self) -> float:
        return 0.0 if self.learning else self.hysteresis  # a class that owns nothing has nothing to keep

    def _match(self, prototypes: Tensor, epoch: int) -> dict[str, float]:
        report = super()._match(prototypes, epoch)
        if not self.learning:
            return report
        self.first.copy_(self.sigma)
        self.learning.fill_(False)
        # Every class goes from its learned vector to a prototype, whichever it is; there was no value before.
        return {**{key: value for key, value in report.items() if key != "value_before"}, "moved": len(self.sigma)}
