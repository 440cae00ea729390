"""What is done to an image before it is a network's input, one image at a time; to image files all of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dl2pa.errors import UserError
from dl2pa.seeding import Stream, derive

if TYPE_CHECKING:
    from PIL.Image import Image


_PADDING_MODES = {"zeros": "constant", "reflect": "reflect"}  # torchvision's names


@dataclass(frozen=True)
class ImageTransform:
    """``size``: side of the square input in pixels.

    Training: ``train_crop`` "pad" crops ``size`` at random from the image with ``padding`` pixels around it, ``border``
    "zeros" or "reflect", "resized" a random part of random shape, scaled to ``size``; then ``flip`` left-right with
    probability 1/2; then brightness, contrast and saturation vary by up to ``jitter``; then ``policy`` "trivial" or
    "auto" (see ``under_policy``). Once normalised, a rectangle is erased with probability ``erase`` and a square of
    side ``cutout`` (see data/erase.py).
    Evaluation, and training before a "pad" crop: the shorter side is scaled to ``resize`` and the centre cut out; with
    None images must have the right size already.
    """

    size: int
    train_crop: str = "pad"
    padding: int = 0
    border: str = "zeros"
    flip: bool = False
    resize: int | None = None
    jitter: float = 0.0
    policy: str = "none"
    erase: float = 0.0
    cutout: int = 0


def read_for_training(path: str, transform: ImageTransform, seed: int, epoch: int, index: int) -> Tensor:
    """The image as uint8 [size, size, 3], its randomness a function of (seed, epoch, index) alone.

    Raises UserError, naming the file, if it is no image or of the wrong size.
    """
    from torchvision.transforms import v2

    image = open_image(path)
    with drawing_from(derive(seed, Stream.AUGMENT, epoch, index)):
        if transform.train_crop == "resized":
            image = v2.RandomResizedCrop(transform.size)(image)
        else:
            mode = _PADDING_MODES[transform.border]
            crop = v2.RandomCrop(transform.size, padding=transform.padding, padding_mode=mode)
            image = crop(fit(image, path, transform))
        if transform.flip:
            image = v2.RandomHorizontalFlip()(image)
        if transform.jitter > 0:
            image = v2.ColorJitter(transform.jitter, transform.jitter, transform.jitter)(image)
        image = under_policy(image, transform.policy, "IMAGENET")
    return torch.from_numpy(np.array(image))


@contextlib.contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seeds the CPU's default generator, from which torchvision draws, and gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        yield


def under_policy(image: Any, policy: str, found_on: str) -> Any:
    """A Pillow image or uint8 [c, H, W] after one draw of ``policy``: "none", "trivial" or "auto".

    trivial: one operation of random strength (TrivialAugmentWide, Mueller and Hutter 2021); auto: one of the 25 pairs
    of operations that were found on the data set ``found_on``, IMAGENET or CIFAR10 (AutoAugment, Cubuk et al. 2019).
    """
    from torchvision.transforms import v2

    if policy == "none":
        return image
    smooth = v2.InterpolationMode.BILINEAR  # as in torchvision's reference training script
    if policy == "trivial":
        return v2.TrivialAugmentWide(interpolation=smooth)(image)
    return v2.AutoAugment(v2.AutoAugmentPolicy[found_on], interpolation=smooth)(image)


def read_for_evaluation(path: str, transform: ImageTransform) -> Tensor:
    """The image as uint8 [size, size, 3]. Raises UserError as ``read_for_training`` does."""
    return torch.from_numpy(np.array(fit(open_image(path), path, transform)))


def open_image(path: str, mode: str = "RGB") -> "Image":
    """The image file in Pillow's ``mode`` ("RGB", or "L" for gray). Raises UserError if it cannot be read."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            converted: Image = image.convert(mode)
            return converted
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for files that are damaged or no images
        raise UserError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error


def fit(image: "Image", path: str, transform: ImageTransform) -> "Image":
    """The image as evaluation wants it, size x size. Raises UserError, naming ``path``, if it should be so already."""
    from torchvision.transforms.v2 import functional

    if transform.resize is not None:
        resized = functional.resize(image, [transform.resize])
        fitted: Image = functional.center_crop(resized, [transform.size, transform.size])
        return fitted
    if image.size != (transform.size, transform.size):
        wanted = f"{transform.size}x{transform.size}"
        raise UserError(f"{path}: is {image.size[0]}x{image.size[1]}, expected {wanted}; dataset.resize scales images")
    return image
