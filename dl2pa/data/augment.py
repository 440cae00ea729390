"""Augmentation of whole batches on the device, with its own draw for every image.

torchvision's v2 transforms draw one crop and one flip for a batch, so these are written here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dl2pa.data.erase import inside


def random_crop_flip(
    images: Tensor, padding: int, flip: bool, generator: torch.Generator, border: str = "zeros"
) -> Tensor:
    """uint8 [B, H, W, c], each padded, cropped and mirrored on its own: of the same shape.

    Row and column offsets are uniform on 0..2p, mirroring has probability 1/2. ``border``: what the p pixels of padding
    hold, "zeros", or "reflect": the image's own, mirrored at its edge. ``generator`` and ``images`` are on one device;
    nothing waits for it.
    """
    batch = len(images)
    offsets = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator, device=images.device)
    if padding > 0:
        images = _windows(_padded(images, padding, border), offsets[0], offsets[1], padding)
    if not flip:
        return images
    mirrored = torch.randint(0, 2, (batch,), generator=generator, device=images.device)
    # A flip of channels_last bytes has a fast path on the CPU, and picking whole images copies each in one piece: .2 ms
    # for 128 images of 32x32x3, where torch.where over a flip of the inner dimensions took 2.
    both = torch.cat([images, images.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)])
    return both.index_select(0, torch.arange(batch, device=images.device) + batch * mirrored)


def _padded(images: Tensor, padding: int, border: str) -> Tensor:
    batch, height, width, channels = images.shape
    padded = images.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    inside = slice(padding, -padding)
    padded[:, inside, inside] = images
    if border == "reflect":
        padded[:, :padding, inside] = images[:, 1 : padding + 1].flip(1)
        padded[:, -padding:, inside] = images[:, -padding - 1 : -1].flip(1)
        padded[:, :, :padding] = padded[:, :, padding + 1 : 2 * padding + 1].flip(2)
        padded[:, :, -padding:] = padded[:, :, -2 * padding - 1 : -padding - 1].flip(2)
    return padded


def _windows(padded: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    """The window of each padded image that starts at (row, column) [B]."""
    batch, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * padding, padded_width - 2 * padding
    # Every pixel of the batch as the corner of a window: entry k is the window whose corner is pixel k, rows of
    # width * channels bytes that lie together. One index_select over one dimension copies them row by row (.05 ms for
    # 128 images of 32x32x3); indexing by (image, row, column) takes ten times as long.
    corners = batch * padded_height * padded_width - (height - 1) * padded_width - (width - 1)
    windows = padded.as_strided((corners, height, width * channels), (channels, padded_width * channels, 1))
    corner = (torch.arange(batch, device=padded.device) * padded_height + rows) * padded_width + columns
    return windows.index_select(0, corner).view(batch, height, width, channels)


class Normalise:
    """uint8 [B, H, W, c] in 0..255 to float32 [B, c, H, W] in channels_last memory: (x / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        assert len(mean) == len(std), (mean, std)
        self._shift = 255 * torch.tensor(mean, dtype=torch.float32, device=device)
        self._scale = 1 / (255 * torch.tensor(std, dtype=torch.float32, device=device))

    def __call__(self, images: Tensor) -> Tensor:
        batch, height, width, channels = images.shape
        assert channels == len(self._shift), (channels, len(self._shift))
        # Whole rows against a repeated mean: with an inner dimension of three channels it takes 20 times as long.
        rows = images.reshape(batch, height, width * channels).to(torch.float32)
        rows.sub_(self._shift.repeat(width)).mul_(self._scale.repeat(width))
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def mixup(images: Tensor, lam: Tensor) -> Tensor:
    """lam * images + (1 - lam) * partner, for [B, c, H, W] and a 0-dim ``lam``; keeps channels_last memory.

    The partner is the batch rolled by one, whose labels are ``labels.roll(1)``: the order of a batch is random already.
    """
    partner = images.permute(0, 2, 3, 1).roll(1, 0).permute(0, 3, 1, 2)
    return torch.lerp(partner, images, lam)


def cutmix(images: Tensor, box: Tensor) -> Tensor:
    """[B, c, H, W] with the partner's pixels (see ``mixup``) inside ``box`` [4]; keeps channels_last memory."""
    rows = images.permute(0, 2, 3, 1)
    mask = inside(box, *rows.shape[1:3]).unsqueeze(-1)
    return torch.where(mask, rows.roll(1, 0), rows).permute(0, 3, 1, 2)
