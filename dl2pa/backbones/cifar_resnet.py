"""ResNet-32 for small images, in the two forms that the long-tail and the balanced tables use; no library has them.

He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2, without the last linear layer.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa.backbones.base import Backbone

Shortcut = Literal["conv3x3", "pad"]

BLOCKS_PER_STAGE = 5  # 3 stages x 5 blocks x 2 convolutions + the stem + the layer after the features = 32

# The two networks come from two code bases that differ in shortcut and initialisation together: the variance of a
# k x k convolution's weights is 2 / (k*k*out) in the first and 2 / (k*k*in) in the second.
_INITIALISATION: dict[Shortcut, Literal["fan_out", "fan_in"]] = {"conv3x3": "fan_out", "pad": "fan_in"}


def _conv3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)


class PadShortcut(nn.Module):
    """Option A of He et al.: every second pixel of [B,c,H,W], zero channels on both sides up to ``channels_out``."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        before = (channels_out - channels_in) // 2
        self.padding = (0, 0, 0, 0, before, channels_out - channels_in - before)

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(images[:, :, ::2, ::2], self.padding)


def _conv_shortcut(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(_conv3x3(channels_in, channels_out, stride=2), nn.BatchNorm2d(channels_out))


_SHORTCUTS = {"conv3x3": _conv_shortcut, "pad": PadShortcut}


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, then ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out, stride=1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


def _stage(channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride, shortcut)
    rest = [BasicBlock(channels_out, channels_out, 1, nn.Identity()) for _ in range(BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(first, *rest)


class CifarResNet(Backbone):
    """Images [B,c,H,W] of any size to non-negative features [B,widths[2]], averaged over the whole last map [H/4,W/4].

    ``widths`` are the channels of the three stages. ``shortcut`` is what carries the input past the first block of the
    second and third stage: "conv3x3", a 3x3 convolution of stride 2 and batch normalisation (balanced CIFAR-100 and
    ImageNet-200), or "pad", which has no parameters (the long-tail sets). Parameters for three input channels: 486,736
    with conv3x3 at 16/32/64; with pad 463,504 at 16/32/64 and 1,848,608 at 32/64/128.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], shortcut: Shortcut) -> None:
        super().__init__()
        first, second, third = widths
        make_shortcut = _SHORTCUTS[shortcut]
        self.stem = nn.Sequential(_conv3x3(in_channels, first, stride=1), nn.BatchNorm2d(first), nn.ReLU())
        self.stages = nn.Sequential(
            _stage(first, first, 1, nn.Identity()),
            _stage(first, second, 2, make_shortcut(first, second)),
            _stage(second, third, 2, make_shortcut(second, third)),
        )
        self.width = third
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=_INITIALISATION[shortcut], nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return torch.mean(self.stages(self.stem(images)), dim=(2, 3))
