"""A model on a split: scores, and the numbers that come of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dl2pa import ranks
from dl2pa.data.views import over_views
from dl2pa.metrics import Reliability, Tally, fit_temperature
from dl2pa.model import Classifier

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
Observer = Callable[[Tensor, Tensor], None]  # of a batch's scores [B, C] and labels [B]


@dataclass(frozen=True)
class Evaluation:
    """The test split and, where images were held out, the holdout split; each call of the two starts a pass over it.

    ``uncropped``: the test images scaled as for the test, and only made square, where the test cuts out less than
    that. ``superclasses`` [C]: the superclass of each class, where there are any. ``temperature``: what the training
    loss divides scores by. ``left_in`` [C]: what of the log prior a softmax trained so has in its scores, where the
    training images are long-tailed. ``between`` is called after every batch, and may raise to stop. ``views``: of an
    image, over which its features and scores are averaged (data/views.py).
    """

    test: Batches
    holdout: Batches | None
    uncropped: Batches | None
    train_counts: Sequence[int]
    superclasses: Tensor | None
    temperature: float
    left_in: Tensor | None
    device: torch.device
    between: Callable[[], None]
    views: int = 1

    def __call__(self, model: Classifier, means: Tensor, last: bool = False) -> dict[str, Any]:
        """Accuracies in percent (metrics.Tally.summary), with val_top1 and val_macro of the holdout split.

        means_top1 is that of the nearest of the training features' class ``means`` [C, d], which are directions (unit
        rows, or zero), in place of the head: the gap to top1 is what the head loses, or gains, by not following the
        features. super_top1 counts a prediction as right that has the image's superclass. adjusted_top1 and
        adjusted_tail are of scores with ``left_in`` taken off: what a softmax trained on a long tail has when the prior
        is put right after training (Menon et al. 2021, eq. 9, tau = 1) for a test set in which all classes are as
        frequent, which SVHN's is not. top1_one_view, where there are more views, is of the image alone.

        Of a run's ``last`` evaluation, ECE in percent, too: ``ece`` at a temperature fitted on the holdout split, never
        on test images, and null without one; ece_as_trained at the temperature of the training loss. And top1_uncropped
        where there are such images: some published numbers are of this larger input.
        """
        held, made = {}, {}
        kept: list[tuple[Tensor, Tensor]] = []  # scores and labels held out
        if self.holdout is not None:
            keep = [lambda scores, labels: kept.append((scores.cpu(), labels))] if last else []
            found = self._summary(model, self.holdout, means, keep)
            held = {"val_top1": found["top1"], "val_macro": found["macro"]}
        temperature = fit_temperature(*(torch.cat(part) for part in zip(*kept, strict=True))) if kept else None
        if last:
            made = {"ece_as_trained": Reliability(self.temperature)}
        if temperature is not None:
            made["ece"] = Reliability(temperature)
        metrics = self._summary(model, self.test, means, [reliability.update for reliability in made.values()]) | held
        if last:
            errors = {name: reliability.ece() for name, reliability in made.items()}
            metrics |= {"ece": None, **errors, "temperature": temperature}
            metrics |= self._at_full_size(model)
        return metrics

    def _at_full_size(self, model: Classifier) -> dict[str, float]:
        if self.uncropped is None:
            return {}
        tally = Tally(len(self.train_counts), self.device)
        for _, scores, _, labels in self._run(model, self.uncropped):
            tally.update(scores, labels)
        return {"top1_uncropped": tally.summary(self.train_counts)["top1"]}

    def _summary(self, model: Classifier, batches: Batches, means: Tensor, also: Sequence[Observer]) -> dict[str, Any]:
        by_head, by_means, by_adjusted, by_one_view = (Tally(len(self.train_counts), self.device) for _ in range(4))
        groups = self.superclasses
        kin = torch.zeros((), dtype=torch.int64, device=self.device)  # predictions of the right superclass
        for features, scores, of_one_view, labels in self._run(model, batches):
            by_head.update(scores, labels)
            by_means.update(features @ means.T, labels)
            if self.views > 1:
                by_one_view.update(of_one_view, labels)
            if self.left_in is not None:
                by_adjusted.update(scores / self.temperature - self.left_in, labels)
            if groups is not None:
                kin += (groups[scores.argmax(dim=1)] == groups[labels]).sum()
            for observe in also:
                observe(scores, labels)
        found = by_head.summary(self.train_counts)
        found["means_top1"] = by_means.summary(self.train_counts)["top1"]
        if self.views > 1:
            found["top1_one_view"] = by_one_view.summary(self.train_counts)["top1"]
        if self.left_in is not None:
            adjusted = by_adjusted.summary(self.train_counts)
            found |= {"adjusted_top1": adjusted["top1"], "adjusted_tail": adjusted["tail"]}
        if groups is not None:
            found["super_top1"] = 100 * int(kin) / int(by_head.counts[2].sum())
        return found

    def _run(self, model: Classifier, batches: Batches) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Features, scores, scores of the first view alone, and labels."""
        model.eval()
        with torch.inference_mode():
            for images, labels in batches():
                features, scores, of_one_view = over_views(model, images, self.views)
                features, scores = (ranks.whole(values, len(labels)) for values in (features, scores))
                of_one_view = scores if self.views == 1 else ranks.whole(of_one_view, len(labels))
                yield features, scores, of_one_view, labels
                self.between()
