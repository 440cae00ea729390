"""The training loop: gradient steps on the network, and between epochs the head's own change (DL2PA's matching)."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dl2pa import ranks
from dl2pa.compiled import Compiler
from dl2pa.data.loader import Loader
from dl2pa.diagnostics import Moments
from dl2pa.errors import UserError
from dl2pa.losses import Cost, Target, reduce
from dl2pa.mixing import Mix, Mixing
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


class Meter(nn.Module):
    """Mean loss of an epoch, and where it stopped being finite; on the device, read once an epoch."""

    total: Tensor
    count: Tensor
    last_finite: Tensor
    first_bad: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count", "last_finite"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("first_bad", torch.zeros((), dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        for value in (self.total, self.count):
            value.zero_()
        self.last_finite.fill_(torch.nan)
        self.first_bad.fill_(-1)

    def update(self, loss: Tensor, images: int) -> None:
        """Add the mean loss per image of step ``self.step``."""
        finite = loss.isfinite()
        self.total += loss * images
        self.count += images
        self.last_finite.copy_(torch.where(finite & (self.first_bad < 0), loss, self.last_finite))
        self.first_bad.copy_(torch.where(~finite & (self.first_bad < 0), self.step, self.first_bad))

    def check(self, epoch: int, lr: float) -> None:
        """Raises UserError where a loss of the epoch was not finite: such weights are not worth keeping."""
        if (bad := int(self.first_bad)) >= 0:
            raise UserError(
                f"the loss became non-finite at epoch {epoch + 1}, step {bad + 1} (last finite loss per image "
                f"{float(self.last_finite):.4g}, optimizer.lr={lr:g}): a lower optimizer.lr usually helps"
            )

    def mean(self) -> float:
        return float(self.total / self.count)


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
    compiler: Compiler
    clip: float | None = None
    part: Part = WHOLE
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self.joint = ranks.joint(self.model)
        # Made once and emptied in place: a graph knows a tensor by its address.
        self.meter = Meter().to(self.device)
        self.moments = Moments(self.num_classes, self.dimension).to(self.device)
        self.forward = self.compiler.wrap(self._forward)
        self.observe = self.compiler.wrap(self._observe)

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
            self.meter.check(at.epoch, self.lr)  # waits for the device
            loss = self.meter.mean()
            at.train_seconds += time.perf_counter() - clock
            end_epoch(loss, at.epoch * steps + goal >= last_step)
            self.meter.reset()
            self.moments.end_epoch()
            at.epoch, at.step = at.epoch + 1, 0

    def _total_steps(self) -> int:
        whole = self.epochs * self.loader.steps
        return whole if self.max_steps is None else min(self.max_steps, whole)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One step, the same on all hardware: nothing in it waits for the device unless the head matches after steps.

        What is compiled lies within ``_backward``. Not the optimizer: its fused kernel is one launch for all weights,
        and takes the rate as an argument.
        """
        at = self.position
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        self.model.train()
        self.meter.step.fill_(at.step)
        mix = self.mixing.of(at.step)
        kind = (len(labels), None if mix is None else mix.box is not None)
        self.compiler.attempt(lambda: self._backward(images, labels, mix), kind, self._changing)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        last = at.epoch * self.loader.steps + at.step + 1 == self._total_steps()
        self.model.head.end_step(at.epoch, last)
        at.images += len(labels)

    def _backward(self, images: Tensor, labels: Tensor, mix: Mix | None) -> None:
        """The gradients of a batch, and the statistics it adds to."""
        at = self.position
        # Dropout, stochastic depth.
        torch.manual_seed(derive(self.seed, Stream.NETWORK, at.epoch, at.step, *ranks.seeds()))
        self.optimizer.zero_grad(set_to_none=True)
        loss, features, cost, target = self.forward(images, labels, mix)
        loss.backward()
        # From here on the whole batch's, on every rank.
        self.observe(ranks.whole(features, len(labels)), ranks.whole(cost, len(labels)), target)

    def _forward(self, images: Tensor, labels: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor, Tensor, Target]:
        """The loss, and without gradients features [n, d] and cost [n, C] of this process's part of the batch, and what
        the images of the whole batch should be called."""
        images, target = self.mixing(images, labels, mix)
        features, scores = self.joint(images)
        cost, weights = self.cost(scores, features, target.labels)
        target = target._replace(weights=weights)
        loss = reduce(cost, target.rows(self.part.rows(len(labels))), self.reduction)
        return self.part.weighted(loss, len(labels), self.reduction), features.detach(), cost.detach(), target

    @torch.no_grad()
    def _observe(self, features: Tensor, cost: Tensor, target: Target) -> None:
        self.moments.observe(features, cost, *target.share_of_present(self.num_classes))
        self.model.head.observe(features, cost, target)
        loss, images = reduce(cost, target, self.reduction), len(target.labels)
        self.meter.update(loss / images if self.reduction == "sum" else loss, images)

    def _changing(self) -> Iterator[Tensor]:
        """All that ``_backward`` changes in place."""
        return itertools.chain(self.model.buffers(), self.moments.buffers(), self.meter.buffers())

    def _lr(self) -> float:
        at = self.position
        return self.lr * self.schedule.factor(at.epoch, at.step, self.loader.steps)

    def state(self) -> dict[str, Any]:
        """Raises UserError where the loss has become non-finite: the last good checkpoint stays."""
        self.meter.check(self.position.epoch, self.lr)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": asdict(self.position),
            "meter": self.meter.state_dict(),
            "moments": self.moments.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.meter.load_state_dict(state["meter"])
        self.moments.load_state_dict(state["moments"])
