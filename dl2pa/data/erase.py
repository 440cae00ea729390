"""Rectangles of a batch of images, and images that lose some."""

import math

import torch
from torch import Tensor

from dl2pa.part import WHOLE, Part

_TRIES = 10  # as torchvision's RandomErasing: shapes drawn before an image is left whole
_AREA = (0.02, 0.33)  # of the image
_RATIO = (0.3, 3.3)  # height over width


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels within ``boxes`` [..., 4], rows (top, left, bottom, right), the last two exclusive: bool [..., H, W]."""
    top, left, bottom, right = boxes.unsqueeze(-1).unbind(-2)
    rows, columns = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    return ((rows >= top) & (rows < bottom)).unsqueeze(-1) & ((columns >= left) & (columns < right)).unsqueeze(-2)


def cutout_boxes(batch: int, side: int, size: int, generator: torch.Generator) -> Tensor:
    """Cutout (DeVries and Taylor 2017): [B, 4], squares of ``side`` pixels about any pixel, so that some stand out."""
    start = torch.randint(0, size, (batch, 2), generator=generator, device=generator.device) - side // 2
    return torch.cat([start, start + side], dim=1)


def erasing_boxes(batch: int, probability: float, size: int, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020): [B, 4], a rectangle within the image with ``probability``, else an empty one.

    The area is uniform on 2 to 33 % of the image, the logarithm of height over width on log .3 to log 3.3.
    """
    draws = torch.rand(2, _TRIES, batch, generator=generator, device=generator.device)
    area = size**2 * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0])
    ratio = torch.exp(math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * draws[1])
    shapes = torch.stack([area * ratio, area / ratio], dim=-1).sqrt().round().long()  # [tries, B, (height, width)]
    fits = (shapes < size).all(dim=-1)
    first = fits.int().argmax(dim=0)
    shape = shapes[first, torch.arange(batch, device=first.device)]
    erased = fits.any(dim=0) & (torch.rand(batch, generator=generator, device=generator.device) < probability)
    shape = shape * erased.unsqueeze(1)
    place = torch.rand(batch, 2, generator=generator, device=generator.device)
    start = (place * (size - shape + 1)).long()
    return torch.cat([start, start + shape], dim=1)


def erase(
    images: Tensor, probability: float, cutout: int, generator: torch.Generator, batch: int, part: Part = WHOLE
) -> Tensor:
    """Normalised square images [n, c, H, H], in place: zero, the mean colour, in each image's rectangles.

    They are the ``part`` of a batch of ``batch`` images; the rectangles are drawn for all of it.
    """
    size = images.shape[-1]
    drawn = []
    if probability > 0:
        drawn.append(erasing_boxes(batch, probability, size, generator))
    if cutout > 0:
        drawn.append(cutout_boxes(batch, cutout, size, generator))
    for boxes in drawn:
        images.masked_fill_(inside(part.of(boxes), size, size).unsqueeze(1), 0)
    return images
