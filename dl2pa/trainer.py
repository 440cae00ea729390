"""The training loop: gradient steps on the network, and between epochs the head's own change (DL2PA's matching)."""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dl2pa import ranks
from dl2pa.data.loader import Loader
from dl2pa.diagnostics import Moments
from dl2pa.errors import UserError
from dl2pa.losses import Cost, reduce
from dl2pa.mixing import Mixing
from dl2pa.model import Classifier
from dl2pa.part import WHOLE, Part
from dl2pa.schedule import Schedule
from dl2pa.seeding import Stream, derive


@dataclass
class Position:
    """Where a run is: ``step`` steps of epoch ``epoch`` are done; what came of it is in ``best`` (percent)."""

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    images: int = 0
    best: float = -1.0
    best_top1: float | None = None


class Meter:
    """Mean loss of an epoch, and where it stopped being finite; on the device, read once an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.last_finite = torch.full((), torch.nan, dtype=torch.float64, device=device)
        self.first_bad = torch.full((), -1, dtype=torch.long, device=device)

    def update(self, loss: Tensor, images: int, step: int) -> None:
        """Add a step's mean loss per image."""
        finite = loss.isfinite()
        self.total += loss * images
        self.count += images
        self.last_finite.copy_(torch.where(finite & (self.first_bad < 0), loss, self.last_finite))
        self.first_bad.copy_(torch.where(~finite & (self.first_bad < 0), step, self.first_bad))

    def mean(self, epoch: int, lr: float) -> float:
        """Raises UserError where a loss was not finite: such weights are not worth keeping."""
        if (bad := int(self.first_bad)) >= 0:
            raise UserError(
                f"the loss became non-finite at epoch {epoch + 1}, step {bad + 1} (last finite loss per image "
                f"{float(self.last_finite):.4g}, optimizer.lr={lr:g}): a lower optimizer.lr usually helps"
            )
        return float(self.total / self.count)

    def state(self) -> dict[str, Tensor]:
        return vars(self)

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


@dataclass
class Trainer:
    """Everything that is trained with. ``fit`` is the loop; ``state`` and ``restore`` are a checkpoint's content."""

    model: Classifier
    cost: Cost
    reduction: str
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loader: Loader
    num_classes: int
    dimension: int
    mixing: Mixing
    lr: float
    seed: int
    epochs: int
    max_steps: int | None
    device: torch.device
    clip: float | None = None
    part: Part = WHOLE
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self.joint = ranks.joint(self.model)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.meter = Meter(self.device)
        self.moments = Moments(self.num_classes, self.dimension).to(self.device)

    def fit(self, on_step: Callable[[], None], end_epoch: Callable[[float, bool], None]) -> None:
        """Train from ``position`` to the end.

        Args:
            on_step: called at every step boundary; may save ``state()``, and may raise to stop.
            end_epoch: called with an epoch's mean loss per image, and whether it is the run's last epoch: evaluates,
                saves, and lets the head change. An epoch resumed after its last step comes here again, to the same end.
        """
        at, steps = self.position, self.loader.steps
        last_step = self._total_steps()
        while at.epoch < self.epochs and at.epoch * steps < last_step:
            goal = min(steps, last_step - at.epoch * steps)
            self.mixing.start(at.epoch, steps)
            clock = time.perf_counter()
            batches = self.loader.epoch(at.epoch, start=at.step) if at.step < goal else iter(())
            for images, labels in itertools.islice(batches, goal - at.step):
                self._step(images, labels)
                at.step += 1
                at.train_seconds, clock = at.train_seconds + time.perf_counter() - clock, time.perf_counter()
                on_step()
            loss = self.meter.mean(at.epoch, self.lr)  # waits for the device
            at.train_seconds += time.perf_counter() - clock
            end_epoch(loss, at.epoch * steps + goal >= last_step)
            self._begin_epoch()
            at.epoch, at.step = at.epoch + 1, 0

    def _total_steps(self) -> int:
        whole = self.epochs * self.loader.steps
        return whole if self.max_steps is None else min(self.max_steps, whole)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        at = self.position
        # Dropout, stochastic depth.
        torch.manual_seed(derive(self.seed, Stream.NETWORK, at.epoch, at.step, *ranks.seeds()))
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        images, target = self.mixing(images, labels, at.step)
        self.model.train()
        features, scores = self.joint(images)
        cost, weights = self.cost(scores, features, target.labels)
        target = target._replace(weights=weights)
        loss = reduce(cost, target.rows(self.part.rows(len(labels))), self.reduction)
        self.optimizer.zero_grad(set_to_none=True)
        self.part.weighted(loss, len(labels), self.reduction).backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        # From here on the whole batch's, on every rank.
        features, cost = (ranks.whole(values.detach(), len(labels)) for values in (features, cost))
        self.moments.observe(features, cost, target.share(self.num_classes))
        last = at.epoch * self.loader.steps + at.step + 1 == self._total_steps()
        self.model.head.observe(features, cost, target, at.epoch, last)
        if self.part.world > 1:
            loss = reduce(cost, target, self.reduction)
        per_image = loss.detach() / len(labels) if self.reduction == "sum" else loss.detach()
        self.meter.update(per_image, len(labels), at.step)
        at.images += len(labels)

    def _lr(self) -> float:
        at = self.position
        return self.lr * self.schedule.factor(at.epoch, at.step, self.loader.steps)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": asdict(self.position),
            "meter": self.meter.state(),
            "moments": self.moments.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.meter.restore(state["meter"])
        self.moments.load_state_dict(state["moments"])
