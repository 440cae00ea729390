"""Heads: from an embedding z [B, d] to class scores [B, C] whose arg-max is the prediction."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa import ranks
from dl2pa.assignment.assigner import Assigner
from dl2pa.losses import Target


class Head(nn.Module, ABC):
    """Interface. Scores have their columns in class order: no caller needs to know that prototypes are assigned."""

    @abstractmethod
    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding [B, d] -> (features [B, d] that the loss sees, scores [B, C])."""

    def observe(self, features: Tensor, cost: Tensor, target: Target) -> None:
        """Take note of a training batch, without gradients; part of the compiled step, so in tensors alone."""

    def end_step(self, epoch: int, last: bool = False) -> None:
        """After the optimizer's step, the run's ``last`` or not: change what changes between steps."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """After evaluation and checkpoint: change what changes between epochs, and report numbers to log."""
        return {}

    def never_moves(self) -> bool:
        """Whether classes were meant to change prototypes, and the run is too short for it."""
        return False

    def assignment(self) -> Tensor | None:
        """[C], the prototype of each class; None where (or, in a warm-up, while) classes own no fixed prototypes."""
        return None

    def class_vectors(self) -> Tensor | None:
        """[C, d], the direction that stands for each class; None where a class is more than one."""
        return None


class PrototypeHead(Head):
    """Cosine to the fixed prototype that each class owns: scores[b, c] = h_b . w_sigma(c), h = z / |z|.

    With ``normalise`` false h = z, and an embedding's length counts (Kasarla et al. 2022).
    (The assigner may have classes aim elsewhere for part of the run: its ``class_vectors`` stand for w_sigma(c).)

    Args:
        prototypes: [C, d] unit rows, never trained.
        assigner: holds sigma and moves it.
        mixed: whether a mixup image counts for both of its labels in the assigner's statistics.
    """

    def __init__(self, prototypes: Tensor, assigner: Assigner, mixed: bool = True, normalise: bool = True) -> None:
        super().__init__()
        self.mixed = mixed
        self.normalise = normalise
        self.assigner = assigner
        self.prototypes: Tensor
        self.register_buffer("prototypes", prototypes.clone())

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        features = F.normalize(embedding, dim=1) if self.normalise else embedding
        return features, features @ self.class_vectors().T

    def observe(self, features: Tensor, cost: Tensor, target: Target) -> None:
        if not self.normalise:
            features = F.normalize(features, dim=1)  # the statistics are of directions
        share, classes = target.share_of_present(len(self.prototypes), self.mixed)
        self.assigner.observe(features, cost, share.to(features.dtype), classes, target.weights)

    def end_step(self, epoch: int, last: bool = False) -> None:
        if not last and self.assigner.matches_after_step(epoch):  # nothing would train with what the last one finds
            ranks.from_first(lambda: self.assigner.end_step(self.prototypes, epoch), self._moving())

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return ranks.from_first(lambda: self.assigner.end_epoch(self.prototypes, epoch), self._moving())

    def _moving(self) -> list[Tensor]:
        """All that a matching may change."""
        return [self.prototypes, *self.assigner.buffers()]

    def never_moves(self) -> bool:
        return self.assigner.statistic is not None and self.assigner.timetable.empty()

    def assignment(self) -> Tensor | None:
        return self.assigner.owned()

    def class_vectors(self) -> Tensor:
        return self.assigner.class_vectors(self.prototypes)


class LinearHead(Head):
    """scores = V z + b (psc.linear). Frozen, V is He-normal and neither V nor b is trained (psc.frozen_linear)."""

    def __init__(self, dimension: int, num_classes: int, frozen: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, num_classes)
        if frozen:
            nn.init.kaiming_normal_(self.linear.weight)
            self.linear.requires_grad_(False)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return embedding, self.linear(embedding)

    def class_vectors(self) -> Tensor:
        return self.linear.weight


class CosineHead(Head):
    """scores = s cos(z, v_c) with learned v_c: psc.cos_unscaled has s = 1, psc.cos_scaled a useful s."""

    def __init__(self, dimension: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.randn(num_classes, dimension), dim=1))

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        features = F.normalize(embedding, dim=1)
        return features, self.scale * (features @ self.class_vectors().T)

    def class_vectors(self) -> Tensor:
        return F.normalize(self.weight, dim=1)


def softmax_head(variant: str, dimension: int, num_classes: int, scale: float) -> Head:
    """The parametric softmax classifier's head called ``variant``."""
    return {
        "linear": lambda: LinearHead(dimension, num_classes),
        "frozen_linear": lambda: LinearHead(dimension, num_classes, frozen=True),
        "cos_unscaled": lambda: CosineHead(dimension, num_classes, 1.0),
        "cos_scaled": lambda: CosineHead(dimension, num_classes, scale),
    }[variant]()
