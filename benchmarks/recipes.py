"""The cost of the tables' best accuracy, under recipe=fast and the paper's: python benchmarks/recipes.py [KEY=VALUE...]

CIFAR-10-LT at 0.01. recipe=fast: the cells of results/runs and results/shorter whose top-1 is the tables' best or
more, the cheapest first. The paper's recipe was not trained to its end. The seconds of both are what their
FLOP or epochs take at the images a second that are measured here in turn, of training alone.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import circumstances
from hydra import compose

from dl2pa.assemble import load_data, make_trainer
from dl2pa.data.datasets import Data
from dl2pa.device import hardware, resolve_device
from dl2pa.errors import UserError, told
from dl2pa.flops import training_flops
from dl2pa.report.collect import Cell, collect
from dl2pa.report.published import published
from dl2pa.sweep.compose import composing
from dl2pa.timing import training

ROOT = Path(__file__).parents[1]
CELL = ["dataset=cifar10_lt", "imbalance=0.01"]
ROUNDS, SECONDS = 5, 10.0


class Recipe:
    """A trainer of DL2PA under a recipe, and what an image costs it."""

    def __init__(self, words: Sequence[str], data: Data | None = None) -> None:
        self.cfg = compose("config", overrides=[*CELL, "method=dl2pa", "precision=fp32", *words])
        self.data = load_data(self.cfg) if data is None else data
        self.device = resolve_device(self.cfg.device)
        self.trainer = make_trainer(self.cfg, self.data, self.device, "fp32")
        facts = self.cfg.dataset
        self.flops = training_flops(self.trainer.model, (facts.channels, facts.size, facts.size), self.device)

    def images_per_second(self) -> float:
        return training(self.trainer, SECONDS)


def reaching(goal: float) -> list[Cell]:
    """The cells of results/runs and results/shorter on this data whose mean is ``goal`` or more, the cheapest first."""
    folders = [ROOT / "results" / name for name in ("runs", "shorter")]
    cells = collect([folder for folder in folders if folder.exists()])
    found = [
        cell
        for cell in cells
        if (cell.dataset, cell.imbalance) == ("cifar10_lt", 0.01) and (cell.mean() or 0.0) >= goal
    ]
    return sorted(found, key=lambda cell: (cell.mean("flops") or 0.0, -(cell.mean() or 0.0)))


def main(words: Sequence[str]) -> None:
    known = [cell for cell in published() if (cell.dataset, cell.imbalance) == ("cifar10_lt", 0.01)]
    goal = max(cell.value for cell in known)
    cells = reaching(goal)
    if not cells:
        raise UserError(f"no finished run of results/runs reaches {goal} %: train sweep=fast_methods there first")
    paper = Recipe(words)
    fast = Recipe(["recipe=fast", *words], paper.data)
    rates = [(fast.images_per_second(), paper.images_per_second()) for _ in range(ROUNDS)]
    speed_fast, speed_paper = (statistics.median(column) for column in zip(*rates, strict=True))
    images = paper.cfg.epochs * len(paper.data.train)
    print(f"{circumstances.told()}\n")
    print(f"| recipe | row | top-1 % (n) | FLOP | seconds on {hardware(fast.device)} |")
    print("|---|---|---|---|---|")
    flops, seconds = images * paper.flops, images / speed_paper
    print(f"| paper | best published | {goal} (1) | {flops:.2g} | {seconds:.0f}, extrapolated |")
    costs = [mean(cell.values("flops")) for cell in cells]
    for cell, cost in zip(cells, costs, strict=True):
        top1, took = f"{cell.mean():.1f} ({len(cell.results)})", cost / fast.flops / speed_fast
        print(f"| fast, {cell.config['epochs']} epochs | {cell.label} | {top1} | {cost:.2g} | {took:.0f} |")
    ratios = [images / slow / (costs[0] / fast.flops / quick) for quick, slow in rates]
    print(
        f"\nTo {goal} %: {flops / costs[0]:.1f} times less FLOP, {statistics.median(ratios):.1f} times less time (min "
        f"{min(ratios):.1f}, max {max(ratios):.1f}, n {ROUNDS})"
    )


if __name__ == "__main__":
    with told(), composing():
        main(sys.argv[1:])
