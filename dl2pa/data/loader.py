"""Batches on the device, from images in memory or image files, behind one interface.

A batch is a function of (seed, epoch, step) and not of what was drawn before, so a resumed epoch goes on with exactly
the batches of an undisturbed one. Of several processes that train one run each has its part of the very same batches.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dl2pa.data.augment import Normalise, random_crop_flip
from dl2pa.data.erase import erase
from dl2pa.data.split import Split
from dl2pa.data.transforms import ImageTransform, drawing_from, read_for_evaluation, read_for_training, under_policy
from dl2pa.errors import UserError
from dl2pa.part import WHOLE, Part
from dl2pa.seeding import Stream, derive
from dl2pa.signals import held_back, only_from_parent

Batch = tuple[Tensor, Tensor]


class Loader(Protocol):
    """Training batches: images float32 [B, c, H, W] in channels_last memory and labels int64 [B], on the device.

    A loader for a part of each batch gives the images of the part alone, and all of the labels.
    """

    steps: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from step ``start`` on."""
        ...


def training_loader(
    split: Split,
    transform: ImageTransform,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int = 0,
    part: Part = WHOLE,
) -> Loader:
    """The loader for this kind of split. ``workers``: processes that read files; images in memory need none.

    Raises UserError if the transform is not possible for images in memory, which know no scaling and no jitter, and if
    there are more processes than images in a batch.
    """
    if (least := len(split) // _steps(split, batch_size)) < part.world:
        raise UserError(
            f"batch_size={batch_size} makes batches of {least} images, and {part.world} processes train on each: use "
            f"fewer processes or a larger batch_size"
        )
    if not split.in_memory:
        return FolderLoader(split, transform, batch_size, device, seed, mean, std, workers, part)
    _check_in_memory(split, transform)
    return TensorLoader(split, transform, batch_size, device, seed, mean, std, part)


class TensorLoader:
    """Keeps all images on the device (on a CPU where they are, for all processes to share) and makes every batch there;
    within an epoch the host never waits for it."""

    def __init__(
        self,
        split: Split,
        transform: ImageTransform,
        batch_size: int,
        device: torch.device,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        part: Part = WHOLE,
    ) -> None:
        self.steps = _steps(split, batch_size)
        self._split = split.to(device)
        self._transform, self._device, self._seed, self._part = transform, device, seed, part
        self._normalise = Normalise(mean, std, device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = _order(len(self._split), self._seed, epoch).to(self._device)
        transform = self._transform
        for step, indices in enumerate(order.tensor_split(self.steps)):
            if step < start:
                continue
            generator = torch.Generator(self._device).manual_seed(derive(self._seed, Stream.AUGMENT, epoch, step))
            images = self._split.take(indices)
            images = random_crop_flip(images, transform.padding, transform.flip, generator, transform.border)
            if transform.policy != "none":
                images = _each_under_policy(images, transform.policy, derive(self._seed, Stream.POLICY, epoch, step))
            # Cut only here: the draws are for the whole batch, and so is the little work before.
            images = self._normalise(self._part.of(images))
            images = _erased(images, transform, self._seed, epoch, step, len(indices), self._part)
            yield images, self._split.labels.index_select(0, indices)


class FolderLoader:
    """Reads image files in worker processes, which live as long as the loader."""

    def __init__(
        self,
        split: Split,
        transform: ImageTransform,
        batch_size: int,
        device: torch.device,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        workers: int,
        part: Part = WHOLE,
    ) -> None:
        self.steps = _steps(split, batch_size)
        self._count, self._transform, self._device, self._seed = len(split), transform, device, seed
        self._normalise, self._part = Normalise(mean, std, device), part
        self._plan = _Plan()
        self._batches = _file_batches(_Files(split, transform, seed, part), self._plan, device, workers, keep=True)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = _order(self._count, self._seed, epoch)
        self._plan.requests = [(epoch, indices) for indices in order.tensor_split(self.steps)[start:]]
        batches = _on_device(self._batches, self._device, self._normalise)
        for step, (images, labels) in enumerate(batches, start):
            yield _erased(images, self._transform, self._seed, epoch, step, len(labels), self._part), labels


def evaluation_batches(
    split: Split,
    transform: ImageTransform,
    *,
    batch_size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int = 0,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """All images once, in order and without augmentation; batches as a Loader gives them.

    Raises UserError as ``training_loader`` does.
    """
    normalise = Normalise(mean, std, device)
    batches = torch.arange(len(split), device=split.labels.device).split(batch_size)
    if split.in_memory:
        _check_in_memory(split, transform)
        for indices in batches:
            yield normalise(split.take(part.of(indices)).to(device)), split.labels[indices].to(device)
        return
    plan = _Plan([(0, indices) for indices in batches])
    yield from _on_device(_file_batches(_Files(split, transform, part=part), plan, device, workers), device, normalise)


def _steps(split: Split, batch_size: int) -> int:
    assert len(split) > 0
    assert batch_size > 0
    # A lone image cannot be normalised: with batch_size=2 and an odd number of images one batch has three.
    return max(1, min(-(-len(split) // batch_size), len(split) // 2))


def _order(count: int, seed: int, epoch: int) -> Tensor:
    """Cut by tensor_split into batches that differ by one image at most: a last batch of a single image would leave
    batch normalisation without a variance."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, Stream.ORDER, epoch)))


def _each_under_policy(images: Tensor, policy: str, seed: int) -> Tensor:
    """uint8 [B, H, W, c], each image with its own draw: 26 ms for 128 of 32x32x3 on one core (AMD EPYC)."""
    with drawing_from(seed):
        drawn = [under_policy(image, policy, "CIFAR10") for image in images.permute(0, 3, 1, 2)]
    return torch.stack(drawn).permute(0, 2, 3, 1)


def _erased(
    images: Tensor, transform: ImageTransform, seed: int, epoch: int, step: int, batch: int, part: Part
) -> Tensor:
    if transform.erase == 0 and transform.cutout == 0:
        return images
    generator = torch.Generator(images.device).manual_seed(derive(seed, Stream.ERASE, epoch, step))
    return erase(images, transform.erase, transform.cutout, generator, batch, part)


def _check_in_memory(split: Split, transform: ImageTransform) -> None:
    assert isinstance(split.source, Tensor)
    height, width = split.source.shape[1:3]
    if (height, width) != (transform.size, transform.size):
        raise UserError(f"dataset.size={transform.size}: the images of this data set are {width}x{height}")


Request = tuple[int, Tensor]  # epoch, indices [B]


class _Plan(Sampler[Request]):
    """The batches that a DataLoader is to make next: replaced before each epoch, since its workers live on."""

    def __init__(self, requests: Sequence[Request] = ()) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _Files(Dataset[Batch | UserError]):
    """A ``part`` of each batch, uint8 [n, size, size, 3], and all labels [B]; ``seed`` None: for evaluation.

    An error is returned, not raised: a DataLoader would bury its one line in the worker's traceback.
    """

    def __init__(self, split: Split, transform: ImageTransform, seed: int | None = None, part: Part = WHOLE) -> None:
        self._paths, self._labels = split.paths, split.labels
        self._transform, self._seed, self._part = transform, seed, part

    def __getitem__(self, request: Request) -> Batch | UserError:
        epoch, indices = request
        try:
            read = [self._read(epoch, i) for i in self._part.of(indices).tolist()]
            return torch.stack(read), self._labels[indices]
        except UserError as error:
            return error

    def _read(self, epoch: int, index: int) -> Tensor:
        path = self._paths[index]
        if self._seed is None:
            return read_for_evaluation(path, self._transform)
        return read_for_training(path, self._transform, self._seed, epoch, index)


def _file_batches(
    files: _Files, plan: _Plan, device: torch.device, workers: int, keep: bool = False
) -> "DataLoader[Batch | UserError]":
    return DataLoader(
        files,
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=keep and workers > 0,
        # Its own generator: without one every pass would draw from the global one, and move what dropout draws.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_run,
    )


def _leave_signals_to_the_run(worker: int) -> None:
    """SLURM and Ctrl-C tell every process of a job to stop; the run saves first, and needs its workers until then."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    only_from_parent(signal.SIGTERM)  # which is how Python and torch get rid of workers, when a run ends in an error


def _on_device(batches: "DataLoader[Batch | UserError]", device: torch.device, normalise: Normalise) -> Iterator[Batch]:
    with held_back(signal.SIGTERM):  # a worker that is just being forked would die of it
        made = iter(batches)
    for batch in made:
        if isinstance(batch, UserError):
            raise batch
        images, labels = batch
        yield normalise(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
