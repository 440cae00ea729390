"""Our whole training step against a plain loop: python benchmarks/step.py

Both train the same ResNet-32 on the same made-up CIFAR-shaped images (batch 128, crop and flip, squared cosine to 100
prototypes, SGD), in turn in one process: ours with everything that a run does (images on the device, augmented there,
the precision that precision=auto takes, channels_last, fused optimizer, assignment statistics), the other as commonly
written (torchvision transforms in a DataLoader with 2 persistent workers, fp32, NCHW). About a minute and a half on two
quiet cores.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dl2pa import config
from dl2pa.data.datasets import Data
from dl2pa.data.split import Split
from dl2pa.device import hardware, resolve_device, resolve_precision
from dl2pa.run import make_trainer

ROUNDS, STEPS, WARMUP, BATCH, CLASSES, DIMENSION = 5, 10, 2, 128, 100, 50


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


def main() -> None:
    config.register()
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        words = [
            "dataset=cifar100",
            f"dimension={DIMENSION}",
            f"batch_size={BATCH}",
            "prototypes=random",
            "epochs=1000",
        ]
        cfg = compose("config", overrides=words)
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    random = np.random.default_rng(0)
    size = BATCH * (STEPS + WARMUP)
    images = torch.from_numpy(random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
    split = Split(images, torch.from_numpy(random.integers(0, CLASSES, size)))
    data = Data(train=split, holdout=None, test=split, class_names=[str(c) for c in range(CLASSES)])

    ours = make_trainer(cfg, data, device, precision)
    plain = make_trainer(cfg, data, device, "fp32").model
    network = torch.nn.Sequential(plain.backbone, plain.neck).to(memory_format=torch.contiguous_format)
    steps = plain_steps(split, list(cfg.dataset.mean), list(cfg.dataset.std), plain.head.prototypes, network)

    def our_round() -> float:
        stamps: list[float] = []
        ours.max_steps = (ours.position.epoch + 1) * ours.loader.steps  # the images make one epoch a round
        ours.fit(
            on_step=lambda: stamps.append(time.perf_counter()),
            end_epoch=lambda loss, last: ours.model.head.end_epoch(ours.position.epoch) and None,
        )
        return STEPS * BATCH / (time.perf_counter() - stamps[WARMUP - 1])

    def plain_round() -> float:
        for _ in range(WARMUP):
            next(steps)
        _wait(device)
        start = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        _wait(device)
        return STEPS * BATCH / (time.perf_counter() - start)

    ratios, rates = [], []
    for number in range(ROUNDS):
        rates.append((our_round(), plain_round()))
        ratios.append(rates[-1][0] / rates[-1][1])
        print(f"round {number + 1}: ours {rates[-1][0]:.0f} images/s ({precision}), plain {rates[-1][1]:.0f} (fp32)")
    where = f"{hardware(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    spread = f"min {min(ratios):.2f}, max {max(ratios):.2f}, n {len(ratios)}"
    print(f"ratio {statistics.median(ratios):.2f}x ({spread}) on {where}")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
