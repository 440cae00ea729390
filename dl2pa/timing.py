"""Images a second, of a trainer or of anything else that makes batches."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from dl2pa.data.loader import Batch
from dl2pa.trainer import Trainer

WARMUP = 3  # batches


class Speed:
    """Images a second after WARMUP batches, over ``seconds``; ``wait`` waits for a device that works behind."""

    def __init__(self, seconds: float, wait: Callable[[], object] = lambda: None) -> None:
        self._seconds, self._wait, self._batches, self._images, self._began = seconds, wait, 0, 0, 0.0

    def done(self, images: int) -> bool:
        """Count a batch; whether it was the last."""
        self._batches += 1
        if self._batches > WARMUP:
            self._images += images
            return time.perf_counter() - self._began > self._seconds
        if self._batches == WARMUP:
            self._wait()
            self._began = time.perf_counter()
        return False

    def value(self) -> float:
        """Zero where there were no more batches than WARMUP."""
        self._wait()
        return self._images / (time.perf_counter() - self._began)


class Again:
    """A loader that gives the same few batches again and again, which costs nothing."""

    def __init__(self, batches: Sequence[Batch], steps: int) -> None:
        self.steps, self._batches = steps, batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return itertools.islice(itertools.cycle(self._batches), self.steps - start)


class _DoneError(Exception):
    pass


def training(trainer: Trainer, seconds: float) -> float:
    """Images a second of ``trainer``, which goes on where it was."""
    speed, at = Speed(seconds, lambda: float(trainer.meter.total)), trainer.position
    before = at.images

    def on_step() -> None:
        nonlocal before
        images, before = at.images - before, at.images
        if speed.done(images):
            raise _DoneError

    with contextlib.suppress(_DoneError):
        trainer.fit(on_step, lambda loss, last: None)
    return speed.value()
