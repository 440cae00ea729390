"""Our whole training step against a plain loop, and against what the hardware can do: python benchmarks/step.py

First: both train the same ResNet-32 on the same made-up CIFAR-shaped images (batch 128, crop and flip, squared cosine
to 100 prototypes, SGD), in turn in one process: ours with everything that a run does (images on the device, augmented
there, the precision that precision=auto takes, channels_last, fused optimizer, assignment statistics), the other as
commonly written (torchvision transforms in a DataLoader with 2 persistent workers, fp32, NCHW). About a minute and a
half on two quiet cores.

Then, of recipe=fast in fp32 and in the precision of precision=auto: the FLOP/s of the whole step as a share of what a
large matrix product reaches in the same process, the share of augmentation and statistics in the step, and on a CPU the
operators that take most of it. ``python benchmarks/step.py plain`` does the first part alone, ``share`` the second.
With OMP_NUM_THREADS=1 its time is counted as the thread's own, so that a machine busy with other work is no matter.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import circumstances
import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from dl2pa.assemble import make_trainer
from dl2pa.data.datasets import Data
from dl2pa.data.split import Split
from dl2pa.device import DTYPES, resolve_device, resolve_precision
from dl2pa.errors import UserError, told
from dl2pa.sweep.compose import composing
from dl2pa.trainer import Trainer

ROUNDS, STEPS, WARMUP, BATCH, CLASSES, DIMENSION = 5, 10, 2, 128, 100, 50
MATRIX, OPERATORS = 2048, 12


class Images(Dataset[tuple[Tensor, int]]):
    """The made-up images as torchvision's CIFAR class serves them: one PIL image at a time through the transforms."""

    def __init__(self, images: np.ndarray, labels: list[int], transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain_steps(
    split: Split, mean: list[float], std: list[float], prototypes: Tensor, model: torch.nn.Module
) -> Iterator[None]:
    """One step of the plain loop at every ``next``."""
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(mean, std)])
    assert isinstance(split.images, Tensor)
    data = Images(split.images.numpy(), split.labels.tolist(), transform)
    batches = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    device = prototypes.device
    while True:
        for images, labels in batches:
            features = F.normalize(model(images.to(device)), dim=1)
            loss = (1 - (features * prototypes[labels.to(device)]).sum(dim=1)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def composed(*words: str) -> DictConfig:
    with composing():
        fixed = [
            "dataset=cifar100",
            f"dimension={DIMENSION}",
            f"batch_size={BATCH}",
            "prototypes=random",
            "epochs=1000",
        ]
        return compose("config", overrides=[*fixed, *words])


def made_up() -> Data:
    """Images that make ``STEPS + WARMUP`` steps an epoch."""
    random = np.random.default_rng(0)
    size = BATCH * (STEPS + WARMUP)
    images = torch.from_numpy(random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
    split = Split(images, torch.from_numpy(random.integers(0, CLASSES, size)))
    return Data(train=split, holdout=None, test=split, class_names=[str(c) for c in range(CLASSES)])


def epoch_of(trainer: Trainer, now: Callable[[], float]) -> float:
    """Seconds of a step, over an epoch but for its first steps."""
    stamps: list[float] = []

    def on_step() -> None:
        if trainer.position.step == WARMUP:
            stamps.append(now())

    def end_epoch(loss: float, last: bool) -> None:
        stamps.append(now())
        trainer.model.head.end_epoch(trainer.position.epoch)

    trainer.max_steps = (trainer.position.epoch + 1) * trainer.loader.steps
    trainer.fit(on_step, end_epoch)
    return (stamps[1] - stamps[0]) / STEPS


class Shares(TorchDispatchMode):
    """Seconds by operator, of forward and backward."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now, self.seconds = now, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = self.now()
        result = func(*args, **(kwargs or {}))
        self.seconds[func.overloadpacket.__name__] += self.now() - start
        return result


def share_of_the_hardware(precision: str, device: torch.device) -> Counter[str]:
    """Prints what recipe=fast reaches, in a row; the seconds of its operators, of a CPU alone."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1

    def now() -> float:
        _wait(device)
        return time.thread_time() if alone else time.perf_counter()

    trainer = make_trainer(composed("recipe=fast"), made_up(), device, precision)
    flop = flops_of_a_step(trainer)
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=DTYPES[precision]) for _ in range(2))

    def product() -> float:
        start = now()
        left @ right
        return 2 * MATRIX**3 / (now() - start)

    shares = []
    for _ in range(ROUNDS):
        step = flop / epoch_of(trainer, now)
        shares.append(step / max(product() for _ in range(3)))
    aside, total = seconds_aside(trainer, now)
    print(
        f"| {precision} | {step:.3g} | {statistics.median(shares):.2f} (min {min(shares):.2f}, max {max(shares):.2f}, "
        f"n {len(shares)}) | {aside['augmentation'] / total:.1%} | {aside['statistics'] / total:.1%} |",
        flush=True,
    )
    by = Shares(now)
    if device.type == "cpu":
        with by:
            epoch_of(trainer, now)
    return by.seconds


def operators(seconds: dict[str, Counter[str]]) -> None:
    """Prints the operators that take most, by precision, as shares of the time in all."""
    print(f"\n| operator | {' | '.join(seconds)} |\n|---|{'---|' * len(seconds)}")
    for operator, _ in next(iter(seconds.values())).most_common(OPERATORS):
        shares = [f"{by[operator] / by.total():.1%}" for by in seconds.values()]
        print(f"| `{operator}` | {' | '.join(shares)} |")


def flops_of_a_step(trainer: Trainer) -> float:
    """Counted over an epoch's steps, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        trainer.max_steps = (trainer.position.epoch + 1) * trainer.loader.steps
        trainer.fit(lambda: None, lambda loss, last: None)
    return counter.get_total_flops() / trainer.loader.steps


def seconds_aside(trainer: Trainer, now: Callable[[], float]) -> tuple[Counter[str], float]:
    """Seconds of an epoch's augmentation and of its statistics, and of all of it."""
    spent, observe, batches = Counter[str](), trainer.observe, trainer.loader.epoch

    def timed_observe(*arguments: Any) -> None:
        start = now()
        observe(*arguments)
        spent["statistics"] += now() - start

    def timed_batches(epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        made, begun = batches(epoch, start), now()
        for batch in made:
            spent["augmentation"] += now() - begun
            yield batch
            begun = now()

    trainer.observe, trainer.loader.epoch = timed_observe, timed_batches  # type: ignore[method-assign]
    begun = now()
    epoch_of(trainer, now)
    trainer.observe, trainer.loader.epoch = observe, batches  # type: ignore[method-assign]
    return spent, now() - begun


def main() -> None:
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    print(f"{circumstances.told()}\n", flush=True)
    parts = sys.argv[1:] or ["plain", "share"]
    if unknown := {*parts} - {"plain", "share"}:
        raise UserError(f"{', '.join(sorted(unknown))}: no part of this benchmark; use plain, share, or no word")
    if "plain" in parts:
        against_a_plain_loop(precision, device)
    if "share" in parts:
        against_the_hardware(precision, device)


def against_the_hardware(precision: str, device: torch.device) -> None:
    print("| recipe=fast in | FLOP/s of the step | of a matrix product | augmentation | statistics |")
    print("|---|---|---|---|---|")
    seconds = {each: share_of_the_hardware(each, device) for each in dict.fromkeys(["fp32", precision])}
    if device.type == "cpu":
        operators(seconds)


def against_a_plain_loop(precision: str, device: torch.device) -> None:
    cfg, data = composed(), made_up()
    split = data.train
    ours = make_trainer(cfg, data, device, precision)
    plain = make_trainer(cfg, data, device, "fp32").model
    network = torch.nn.Sequential(plain.backbone, plain.neck).to(memory_format=torch.contiguous_format)
    steps = plain_steps(split, list(cfg.dataset.mean), list(cfg.dataset.std), plain.head.prototypes, network)

    def our_round() -> float:
        return BATCH / epoch_of(ours, lambda: (_wait(device), time.perf_counter())[1])

    def plain_round() -> float:
        for _ in range(WARMUP):
            next(steps)
        _wait(device)
        start = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        _wait(device)
        return STEPS * BATCH / (time.perf_counter() - start)

    rates = [(our_round(), plain_round()) for _ in range(ROUNDS)]
    quick, plainly = (f"{statistics.median(column):.0f}" for column in zip(*rates, strict=True))
    ratios = [mine / theirs for mine, theirs in rates]
    print(f"| ours ({precision}), images/s | a plain loop (fp32), images/s | ratio |\n|---|---|---|")
    spread = f"min {min(ratios):.2f}, max {max(ratios):.2f}, n {len(ratios)}"
    print(f"| {quick} | {plainly} | {statistics.median(ratios):.2f} ({spread}) |\n", flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    with told():
        main()
