"""Images with labels, in memory or as files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images with labels, int64 [n]: those ``at`` int64 [n] of a ``source``, or all of it.

    ``source``: uint8 [N, H, W, channels] (RGB, or one channel), which splits of a data set share and nothing writes
    to, or N paths of image files.
    """

    source: Tensor | list[str]
    labels: Tensor
    at: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.source if self.at is None else self.at)
        assert count == len(self.labels), (count, len(self.labels))
        assert self.labels.dtype == torch.int64, self.labels.dtype

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.source, Tensor)

    @property
    def images(self) -> Tensor:
        """uint8 [n, H, W, channels] of a split in memory: a copy, unless it has all of its source."""
        assert isinstance(self.source, Tensor)
        return self.source if self.at is None else self.source.index_select(0, self.at)

    @property
    def paths(self) -> list[str]:
        """Of a split of files."""
        assert not isinstance(self.source, Tensor)
        return self.source if self.at is None else [self.source[i] for i in self.at.tolist()]

    def take(self, indices: Tensor) -> Tensor:
        """uint8 [B, H, W, channels]: the images ``indices`` [B] of a split in memory."""
        assert isinstance(self.source, Tensor)
        return self.source.index_select(0, indices if self.at is None else self.at.index_select(0, indices))

    def to(self, device: torch.device) -> "Split":
        """With images in memory on ``device``, those of this split alone where they have to be moved."""
        if not isinstance(self.source, Tensor) or self.source.device == device:
            return self
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, indices: npt.NDArray[np.int64]) -> "Split":
        """The images at ``indices`` [n], in that order; nothing is copied."""
        chosen = torch.from_numpy(indices)
        return Split(self.source, self.labels[chosen], chosen if self.at is None else self.at[chosen])


def concatenate(splits: Sequence[Split]) -> Split:
    """All images of ``splits``, which have one source, one split after the other."""
    source = splits[0].source
    assert all(split.source is source for split in splits)
    rows = [torch.arange(len(split)) if split.at is None else split.at for split in splits]
    return Split(source, torch.cat([split.labels for split in splits]), torch.cat(rows))
