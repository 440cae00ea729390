"""Several views of a test image, whose features and scores are averaged: test-time augmentation."""

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor


def over_views(
    model: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``model``'s features [B, d] and scores [B, C], means over ``count`` views, and the scores of the image alone."""
    views = views_of(images, count)  # made one at a time: a batch of large images takes memory enough
    weight, image = next(views)
    features, alone = model(image)
    features, scores = weight * features, weight * alone
    for weight, view in views:
        of_view, scored = model(view)
        features, scores = features + weight * of_view, scores + weight * scored
    return features, scores, alone


def views_of(images: Tensor, count: int) -> Iterator[tuple[float, Tensor]]:
    """``count`` views of images [B, c, H, W], each with its weight; weights sum to 1, the first view is the image.

    1: the image alone. 2: it and its mirror image. 6: both of these, and both moved by one pixel down and right and up
    and left, which together weigh as much as the two. In the manner of cifar10-airbench (Jordan 2024), where borders
    reflect and what was moved is mirrored; here the edge is repeated, which an image of any size can do.
    """
    assert count in (1, 2, 6)
    pair = (images,) if count == 1 else (images, images.flip(3))
    unmoved = 0.5 if count == 6 else 1.0
    for view in pair:
        yield unmoved / len(pair), view
    if count == 6:
        height, width = images.shape[2:]
        for view in pair:
            padded = F.pad(view, (1, 1, 1, 1), mode="replicate")
            for start in (0, 2):
                yield 0.125, padded[:, :, start : start + height, start : start + width]
