"""Reading image files beside training: python benchmarks/imagenet.py [KEY=VALUE...]

Made-up JPEGs of 500x375 pixels through the recipe of ImageNet-1K: images a second of the loader alone (decoding and
augmentation in worker processes), of the training step alone on one batch that is there already, and of both
together, in turn in one process. Together is measured against the slower of the two.
"""

import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import circumstances
import numpy as np
from hydra import compose
from PIL import Image

from dl2pa.assemble import load_data, make_trainer
from dl2pa.data.loader import Loader
from dl2pa.device import resolve_device, resolve_precision
from dl2pa.errors import told
from dl2pa.sweep.compose import composing
from dl2pa.timing import Again, Speed, training

ROOT = Path(__file__).parents[1]
CLASSES, IMAGES = 10, 64  # images of each class
ROUNDS, SECONDS = 5, 15.0


def write_images(folder: Path) -> None:
    """Smooth noise: of the size that photographs have when compressed, about 50 to 100 kB."""
    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 1)):
        for label in range(CLASSES):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (94, 125, 3), dtype=np.uint8))
                image = coarse.resize((500, 375), Image.Resampling.BICUBIC)
                image.save(folder / split / f"class{label}" / f"{number}.jpg", quality=90)


def reading(loader: Loader) -> float:
    """Images a second of the loader alone."""
    speed = Speed(SECONDS)
    for epoch in itertools.count():
        for images, _ in loader.epoch(epoch):
            if speed.done(len(images)):
                return speed.value()
    raise AssertionError


def main(words: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch) / "imagenet")
        common = ["dataset=imagenet", f"dataset.num_classes={CLASSES}", "epochs=1000", f"data_root={scratch}"]
        cfg = compose("config", overrides=[*common, "batch_size=16", *words])
        device = resolve_device(cfg.device)
        precision = resolve_precision(cfg.precision.value, device)
        data = load_data(cfg)
        both = make_trainer(cfg, data, device, precision)
        step = make_trainer(cfg, data, device, precision)
        step.loader = Again([next(iter(both.loader.epoch(0)))], both.loader.steps)
        measures: dict[str, Callable[[], float]] = {
            "loader": lambda: reading(both.loader),
            "step": lambda: training(step, SECONDS),
            "together": lambda: training(both, SECONDS),
        }
        rates: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                rates[name].append(measure())
    ratios = [got / min(loader, step) for loader, step, got in zip(*rates.values(), strict=True)]
    shown = [f"{statistics.median(found):.1f} ({min(found):.1f}-{max(found):.1f})" for found in rates.values()]
    of_slower = f"{statistics.median(ratios):.0%} ({min(ratios):.0%}-{max(ratios):.0%})"
    workers = f"{cfg.runtime.workers} worker{'s' if cfg.runtime.workers > 1 else ''}"
    print(f"{circumstances.told()}; medians and ranges of {ROUNDS} rounds\n")
    print(
        "| network | loader alone, images/s | step alone | both together | of the slower one |\n|---|---|---|---|---|"
    )
    network = f"{cfg.backbone.name} at {cfg.dataset.size} pixels, {precision}, batch {cfg.batch_size}, {workers}"
    print(f"| {network} | {' | '.join(shown)} | {of_slower} |")


if __name__ == "__main__":
    with told(), composing():
        main(sys.argv[1:])
