"""The network of recipe=fast: a frozen whitening layer, then three short convolution stages."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa.backbones.base import Backbone

PATCH = 2  # pixels a side
_EPSILON = 5e-4  # added to a patch direction's variance: bounds how far sensor noise is blown up


class _Stage(nn.Module):
    """conv - max pool - BN - GELU - conv - BN - GELU: [B, in, H, W] -> [B, out, H/2, W/2]; one pixel is not pooled."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.first(maps)
        if maps.shape[-1] > 1:
            maps = F.max_pool2d(maps, 2)
        maps = F.gelu(self.norm(maps))
        return F.gelu(self.second_norm(self.second(maps)))


class Whitened(Backbone):
    """Images [B,c,H,W] to features [B,width]: the maximum over the last map.

    The layout is that of cifar10-airbench (Jordan 2024), which reaches 94 % on CIFAR-10 with 3.6e14 FLOP: a convolution
    that decorrelates 2x2 patches and is never trained, then widths (width / 4, width, width). At width 128 it has
    33 M multiply-adds for a 32x32 image, half of ResNet-32's.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        directions = in_channels * PATCH * PATCH
        self.whiten = nn.Conv2d(in_channels, 2 * directions, kernel_size=PATCH, bias=False).requires_grad_(False)
        narrow = max(1, width // 4)
        self.stages = nn.Sequential(_Stage(2 * directions, narrow), _Stage(narrow, width), _Stage(width, width))

    @torch.no_grad()
    def fit(self, sample: Callable[[], Tensor]) -> None:
        self.whiten.weight.copy_(whitening_filters(sample(), PATCH, _EPSILON))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(F.gelu(self.whiten(images))).amax(dim=(2, 3))
        return features


def whitening_filters(images: Tensor, patch: int, epsilon: float) -> Tensor:
    """Filters [2n, c, patch, patch] whose responses to ``images`` [N,c,H,W] are uncorrelated, n = c patch^2.

    The first n are the eigenvectors of the patches' second moments, each over sqrt(eigenvalue + epsilon), the rest
    their negatives, so that a rectifier loses no sign.
    """
    channels = images.shape[1]
    moments = torch.zeros(channels * patch * patch, channels * patch * patch, dtype=torch.float64)
    count = 0
    for part in images.split(256):  # all patches at once would take the images' memory patch^2 times over
        patches = F.unfold(part, patch).transpose(1, 2).flatten(0, 1).double().cpu()
        moments += patches.T @ patches
        count += len(patches)
    variances, vectors = torch.linalg.eigh(moments / count)
    # A solver leaves the sign open: the largest entry is made positive.
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    filters = (vectors * largest.sign() / (variances.clamp(min=0) + epsilon).sqrt()).T
    filters = filters.reshape(-1, channels, patch, patch).to(images)
    return torch.cat([filters, -filters])
