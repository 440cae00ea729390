"""Images a second, of a trainer or of anything else that makes batches."""

import time

from dl2pa.trainer import Trainer

WARMUP = 3  # batches


class Speed:
    """Images a second after WARMUP batches, over ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._batches, self._images, self._began = seconds, 0, 0, 0.0
        self.value = 0.0

    def done(self, images: int) -> bool:
        """Count a batch; whether it was the last."""
        self._batches += 1
        if self._batches == WARMUP:
            self._began = time.perf_counter()
        elif self._batches > WARMUP:
            self._images += images
            took = time.perf_counter() - self._began
            self.value = self._images / took
            return took > self._seconds
        return False


class _DoneError(Exception):
    pass


def training(trainer: Trainer, seconds: float) -> float:
    """Images a second of ``trainer``, which goes on where it was."""
    speed, at = Speed(seconds), trainer.position
    before = at.images

    def on_step() -> None:
        nonlocal before
        images, before = at.images - before, at.images
        if speed.done(images):
            raise _DoneError

    try:
        trainer.fit(on_step, lambda loss, last: None)
    except _DoneError:
        float(trainer.meter.total)  # waits for the device
    return speed.value
