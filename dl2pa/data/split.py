"""Images with labels, in memory or as files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """``images``: uint8 [N, H, W, channels] (RGB, or one channel) or N paths of image files; ``labels``: int64 [N]."""

    images: Tensor | list[str]
    labels: Tensor

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels), (len(self.images), len(self.labels))
        assert self.labels.dtype == torch.int64, self.labels.dtype

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """With images in memory moved to ``device``; a split of files as it is."""
        if isinstance(self.images, Tensor):
            return Split(self.images.to(device), self.labels.to(device))
        return self

    def subset(self, indices: npt.NDArray[np.int64]) -> "Split":
        """The images at ``indices`` [n], in that order, copied."""
        at = torch.from_numpy(indices)
        if isinstance(self.images, Tensor):
            return Split(self.images[at].contiguous(), self.labels[at])
        return Split([self.images[i] for i in indices], self.labels[at])


def concatenate(splits: Sequence[Split]) -> Split:
    """All images one split after the other; the splits are all in memory or all files."""
    labels = torch.cat([split.labels for split in splits])
    tensors = [split.images for split in splits if isinstance(split.images, Tensor)]
    if len(tensors) == len(splits):
        return Split(torch.cat(tensors).contiguous(), labels)
    assert not tensors, "splits in memory and splits of files do not mix"
    return Split([path for split in splits for path in split.images], labels)
