"""Batches mixed with themselves: mixup, cutmix, or one of the two at random."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dl2pa.data.augment import cutmix, mixup
from dl2pa.losses import Target
from dl2pa.part import WHOLE, Part
from dl2pa.seeding import Stream, derive


class Mix(NamedTuple):
    """How a batch is mixed: the scalar ``lam`` is the first label's share; with a ``box`` [4], by cutmix."""

    lam: Tensor
    box: Tensor | None


class Mixing:
    """Mixes every batch with itself rolled by one, with one lambda and one box a batch.

    Args:
        mixup: alpha of mixup's Beta(alpha, alpha) (Zhang et al. 2018); 0 is none.
        cutmix: alpha of cutmix's (Yun et al. 2019); 0 is none. With both, each step takes either with probability 1/2.
        target: "soft", both labels by their share of the image, or "dominant", the label with the larger share alone.
        size: side of the square images in pixels.
        epochs: in which images are mixed; in those after them they are left as they are.
        part: which images of a batch this process has; the labels it has all.
    """

    def __init__(
        self,
        mixup: float,
        cutmix: float,
        target: str,
        size: int,
        seed: int,
        device: torch.device,
        epochs: int,
        part: Part = WHOLE,
    ) -> None:
        self._part, self._epochs = part, epochs
        self._mixup, self._cutmix, self._dominant = mixup, cutmix, target == "dominant"
        self._size, self._seed, self._device = size, seed, device

    def start(self, epoch: int, steps: int) -> None:
        """Draw what the steps of ``epoch`` need, and bring it to the device at once: no step waits for the host."""
        self._mixes = epoch < self._epochs and (self._mixup > 0 or self._cutmix > 0)
        random = np.random.default_rng(derive(self._seed, Stream.MIXUP, epoch))
        lam = random.beta(self._mixup, self._mixup, steps) if self._mixup > 0 else np.ones(steps)
        cut = np.full(steps, self._cutmix > 0)
        boxes = np.zeros((steps, 4), dtype=np.int64)
        if self._cutmix > 0:
            if self._mixup > 0:
                cut = random.random(steps) < 0.5
            side = np.rint(self._size * np.sqrt(1 - random.beta(self._cutmix, self._cutmix, steps))).astype(np.int64)
            start = random.integers(0, self._size, (2, steps)) - side // 2
            boxes = np.stack([*start, *(start + side)], axis=1).clip(0, self._size)
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            lam = np.where(cut, 1 - area / self._size**2, lam)
        self._cut: list[bool] = cut.tolist()
        self._lam = torch.from_numpy(lam.astype(np.float32)).to(self._device)
        self._boxes = torch.from_numpy(boxes).to(self._device)

    def of(self, step: int) -> Mix | None:
        """What was drawn for step ``step``; None where nothing is mixed."""
        if not self._mixes:
            return None
        return Mix(self._lam[step], self._boxes[step] if self._cut[step] else None)

    def __call__(self, images: Tensor, labels: Tensor, mix: Mix | None) -> tuple[Tensor, Target]:
        """Images [B, c, H, W] (or the part of them) and labels [B] as they are trained with."""
        if mix is None:
            return self._part.own(images), Target(labels)
        mixed = mixup(images, mix.lam) if mix.box is None else cutmix(images, mix.box)
        images, target = self._part.own(mixed), Target(labels, labels.roll(1), mix.lam)
        return images, Target(target.dominant()) if self._dominant else target
