"""A model on a split: scores, and the numbers that come of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa import ranks
from dl2pa.metrics import Reliability, Tally, fit_temperature
from dl2pa.model import Classifier

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Evaluation:
    """The test split and, where images were held out, the holdout split; each call of the two starts a pass over it.

    ``uncropped``: the test images scaled as for the test, and only made square, where the test cuts out less than
    that. ``superclasses`` [C]: the superclass of each class, where there are any. ``temperature``: what the training
    loss divides scores by. ``between`` is called after every batch, and may raise to stop.
    """

    test: Batches
    holdout: Batches | None
    uncropped: Batches | None
    train_counts: Sequence[int]
    superclasses: Tensor | None
    temperature: float
    device: torch.device
    between: Callable[[], None]

    def __call__(self, model: Classifier, means: Tensor) -> dict[str, Any]:
        """Accuracies in percent (metrics.Tally.summary), with val_top1 and val_macro of the holdout split.

        means_top1 is that of the nearest of the training features' class ``means`` [C, d], by cosine, in place of the
        head: the gap to top1 is what the head loses, or gains, by not following the features. super_top1 counts a
        prediction as right that has the image's superclass.
        """
        metrics = self._summary(model, self.test, means)
        if self.holdout is not None:
            held = self._summary(model, self.holdout, means)
            metrics |= {"val_top1": held["top1"], "val_macro": held["macro"]}
        return metrics

    def calibration(self, model: Classifier) -> dict[str, float | None]:
        """ECE in percent at a temperature fitted on the holdout split, never on test images; null without one.
        ece_as_trained is at the temperature of the training loss."""
        temperature = None
        if self.holdout is not None:
            held = [(scores.cpu(), labels) for _, scores, labels in self._run(model, self.holdout)]
            temperature = fit_temperature(*(torch.cat(part) for part in zip(*held, strict=True)))
        made = {"ece_as_trained": Reliability(self.temperature)}
        if temperature is not None:
            made["ece"] = Reliability(temperature)
        for _, scores, labels in self._run(model, self.test):
            for reliability in made.values():
                reliability.update(scores, labels)
        found = {name: reliability.ece() for name, reliability in made.items()}
        return {"ece": None, **found, "temperature": temperature}

    def at_full_size(self, model: Classifier) -> dict[str, float | None]:
        """top1_uncropped in percent, where there are such images: some published numbers are of this larger input."""
        if self.uncropped is None:
            return {}
        tally = Tally(len(self.train_counts), self.device)
        for _, scores, labels in self._run(model, self.uncropped):
            tally.update(scores, labels)
        return {"top1_uncropped": tally.summary(self.train_counts)["top1"]}

    def _summary(self, model: Classifier, batches: Batches, means: Tensor) -> dict[str, Any]:
        by_head, by_means = (Tally(len(self.train_counts), self.device) for _ in range(2))
        directions = F.normalize(means, dim=1)
        groups = self.superclasses
        kin = torch.zeros((), dtype=torch.int64, device=self.device)  # predictions of the right superclass
        for features, scores, labels in self._run(model, batches):
            by_head.update(scores, labels)
            by_means.update(features @ directions.T, labels)
            if groups is not None:
                kin += (groups[scores.argmax(dim=1)] == groups[labels]).sum()
        found = by_head.summary(self.train_counts)
        found["means_top1"] = by_means.summary(self.train_counts)["top1"]
        if groups is not None:
            found["super_top1"] = 100 * int(kin) / int(by_head.counts[2].sum())
        return found

    def _run(self, model: Classifier, batches: Batches) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        model.eval()
        with torch.inference_mode():
            for images, labels in batches():
                features, scores = (ranks.whole(values, len(labels)) for values in model(images))
                yield features, scores, labels
                self.between()
