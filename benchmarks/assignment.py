"""What the assignment costs, as a share of an epoch: python benchmarks/assignment.py

ResNet-32 on 50,000 made-up 32x32 images (391 steps of 128), the cheapest network in use, so the shares are the
largest to expect: class statistics at every step and one matching an epoch, for each statistic, at C=100 (d=50) and
C=1000 (d=512).
"""

import statistics
import time

import circumstances
import numpy as np
import torch
from hydra import compose

from dl2pa.assemble import make_trainer
from dl2pa.data.datasets import Data
from dl2pa.data.split import Split
from dl2pa.device import resolve_device, resolve_precision
from dl2pa.sweep.compose import composing

STEPS, WARMUP, BATCH, EPOCH_STEPS = 12, 3, 128, 391


def share(classes: int, dimension: int, statistic: str) -> tuple[float, float, float]:
    """Seconds of a step without the head's bookkeeping, of the bookkeeping, and of the matching; medians."""
    with composing():
        words = ["dataset=cifar100", f"dataset.num_classes={classes}", f"dimension={dimension}", "prototypes=random"]
        cfg = compose(
            "config",
            overrides=[*words, f"assignment.statistic={statistic}", f"batch_size={BATCH}", "runtime.compile=false"],
        )
    device = resolve_device("auto")
    random = np.random.default_rng(0)
    size = BATCH * (STEPS + WARMUP)
    images = torch.from_numpy(random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
    split = Split(images, torch.arange(size) % classes)
    data = Data(train=split, holdout=None, test=split, class_names=[str(c) for c in range(classes)])
    trainer = make_trainer(cfg, data, device, resolve_precision("auto", device))
    head = trainer.model.head
    observe = head.observe
    spent: list[float] = []
    stamps: list[float] = []
    ends: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def timed_observe(*arguments: object) -> None:
        start = now()
        observe(*arguments)
        spent.append(now() - start)

    def end_epoch(loss: float, last: bool) -> None:
        start = now()
        head.end_epoch(0)
        ends.append(now() - start)

    head.observe = timed_observe  # type: ignore[method-assign]
    trainer.max_steps = trainer.loader.steps
    trainer.fit(on_step=lambda: stamps.append(now()), end_epoch=end_epoch)
    bookkeeping = statistics.median(spent[WARMUP:])
    step = statistics.median(np.diff(stamps[WARMUP - 1 :]))
    return step - bookkeeping, bookkeeping, ends[0]


def main() -> None:
    print(f"{circumstances.told()}\n")
    print("| C | d | statistic | step, ms | its statistics, ms | matching, ms an epoch | of an epoch |")
    print("|---|---|---|---|---|---|---|")
    for classes, dimension in ((100, 50), (1000, 512)):
        for statistic in ("epoch_mean", "loss_matrix", "ema", "queue"):
            step, bookkeeping, matching = share(classes, dimension, statistic)
            part = (bookkeeping * EPOCH_STEPS + matching) / ((step + bookkeeping) * EPOCH_STEPS + matching)
            print(
                f"| {classes} | {dimension} | {statistic} | {1e3 * step:.0f} | {1e3 * bookkeeping:.2f} | "
                f"{1e3 * matching:.1f} | {part:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
