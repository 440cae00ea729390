"""What many classes cost: python benchmarks/classes.py [C ...] [kinds=random] [dense=5000] [repeats=3] [only=match]

Tables in Markdown: time and peak memory against the number of classes C, at d = 512.

- match: an update as at an epoch's end (class statistics to score to matching) through the assigner, beside scipy's
  linear_sum_assignment and lapx on the same scores in one float64 matrix, up to C = ``dense``. Values must agree to
  1e-7 a class. Kinds of class means: ``random``; ``alike``, a young network's (a direction common to all, and a
  spectrum that falls off); ``drift``, a quarter of the way from noise to their prototypes; ``near``, sitting there, as
  found from a random assignment; ``kept``, the same, with the assignment found before; ``flat``, random in a subspace
  of three dimensions.
- observe: what a training step adds, batch 128.
- prototypes: one evaluation of the objective of ``uniform`` (and ``exact`` over C = 2d), one step of ``separation`` and
  of ``softmax_separation``.

Every cell is a process of its own, so that its peak is its own: resident memory above that before it began. Seconds are
of the wall clock, with those of the processors behind them, which say more on a machine that is shared; ratios are of
the latter.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import circumstances
import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import EpochMean
from dl2pa.losses import Target
from dl2pa.methods.heads import PrototypeHead
from dl2pa.prototypes.energy import descend, smooth_maximum_cosine
from dl2pa.prototypes.separation import separation, softmax_separation

DIMENSION, BATCH = 512, 128
KINDS = ("random", "alike", "drift", "near", "kept", "flat")
Cell = tuple[list[float], list[float], float, float]  # seconds, of the processors, peak MB, value


def units(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def made_up(kind: str, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class means [C, d], prototypes [C, d] and the assignment [C] before."""
    prototypes, noise = units(0, classes, DIMENSION), units(1, classes, DIMENSION)
    sigma, before = (torch.randperm(classes, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    if kind == "alike":
        spectrum = torch.arange(1, DIMENSION + 1).float() ** -1
        axes = torch.linalg.qr(units(4, DIMENSION, DIMENSION))[0]
        spread = (noise * DIMENSION**0.5 * spectrum / spectrum.norm()) @ axes
        return F.normalize(3 * units(5, 1, DIMENSION) + spread, dim=1), prototypes, before
    if kind == "flat":
        return F.normalize(units(6, classes, 3) @ units(7, 3, DIMENSION), dim=1), prototypes, before
    share = {"random": 0.0, "drift": 0.15, "near": 0.7, "kept": 0.7}[kind]
    return F.normalize(share * prototypes[sigma] + noise, dim=1), prototypes, sigma if kind == "kept" else before


def timed(work: Callable[[], float], repeats: int) -> Cell:
    seconds, processors, value = [], [], 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        clocks = time.perf_counter(), time.process_time()
        value = work()
        seconds.append(time.perf_counter() - clocks[0])
        processors.append(time.process_time() - clocks[1])
    return seconds, processors, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, value


def matched(way: str, kind: str, classes: int, repeats: int) -> Cell:
    """``value`` is the mean score of the matching."""
    means, prototypes, before = made_up(kind, classes)
    if way == "lapx":
        import lap  # outside the clock

    def ours() -> float:
        statistic = EpochMean(classes, DIMENSION)
        statistic.sums.copy_(means)
        statistic.counts.fill_(1)
        made = Assigner(before, Timetable(9), statistic)
        made.end_epoch(prototypes, 0)
        return float((means * prototypes[made.sigma]).sum(dim=1).double().mean())

    def scipy() -> float:
        score = (means @ prototypes.T).double().numpy()
        return float(score[linear_sum_assignment(score, maximize=True)].mean())

    def lapx() -> float:
        score = (means @ prototypes.T).double().numpy()
        columns = lap.lapjv(-score, return_cost=False)[0]
        return float(score[np.arange(classes), columns].mean())

    return timed({"ours": ours, "scipy": scipy, "lapx": lapx}[way], repeats)


def observed(_: str, classes: int, repeats: int) -> Cell:
    prototypes, features = units(0, classes, DIMENSION), units(1, BATCH, DIMENSION)
    target = Target(torch.randint(classes, (BATCH,), generator=torch.Generator().manual_seed(2)))
    head = PrototypeHead(prototypes, Assigner(torch.arange(classes), Timetable(9), EpochMean(classes, DIMENSION)))
    cost = (1 - features @ prototypes.T).square()

    def work() -> float:
        head.observe(features, cost, target)
        return 0.0

    work()
    return timed(work, repeats)


def optimised(what: str, classes: int, repeats: int) -> Cell:
    points = units(0, classes, DIMENSION).double()
    return timed(
        {
            "uniform, one evaluation": lambda: smooth_maximum_cosine(points.numpy(), 4.0)[0],
            "uniform, three iterations of L-BFGS": lambda: float(descend(points.numpy(), 4.0, 1e-9, 3).sum()),
            "separation, one step": lambda: float(separation(classes, DIMENSION, seed=0, steps=1, lr=0.1).sum()),
            "softmax_separation, one step": lambda: float(
                softmax_separation(classes, DIMENSION, seed=0, steps=1, lr=0.1).sum()
            ),
        }[what],
        repeats,
    )


def alone(work: Callable[..., Cell], *arguments: object) -> Cell:
    # Forked, so that imports are not made again; nothing is computed, and so no thread started, before.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


def told(cell: Cell | None) -> str:
    if cell is None:
        return "| | "
    seconds, processors, peak, _ = cell
    spread = f"{min(seconds):.3g}-{max(seconds):.3g}; " if len(seconds) > 1 else ""
    return f"| {statistics.median(seconds):.3g} ({spread}{statistics.median(processors):.3g}) | {peak:.0f} "


def rows(classes: list[int], kinds: list[str], dense: int, repeats: int, only: list[str]) -> Iterator[str]:
    if "match" in only:
        first = "| C | class means | ours, s (min-max; of the processors)"
        yield f"{first} | MB | scipy | MB | lapx | MB | scipy/ours | lapx/ours |"
        yield "|" + "---|" * 10
        for count in classes:
            for kind in kinds:
                cells: list[Cell | None] = [alone(matched, "ours", kind, count, repeats), None, None]
                if count <= dense:
                    cells[1:] = [alone(matched, way, kind, count, repeats) for way in ("scipy", "lapx")]
                ratios = []
                for cell in cells[1:]:
                    if cell is not None:
                        assert abs(cell[3] - cells[0][3]) < 2e-7, f"{kind}, C={count}: {cell[3]} and {cells[0][3]}"
                    ratios.append(
                        "" if cell is None else f"{statistics.median(cell[1]) / statistics.median(cells[0][1]):.2g}"
                    )
                yield f"| {count} | {kind} {''.join(map(told, cells))}| {' | '.join(ratios)} |"
    if "observe" in only:
        yield "\n| C | a step's observe, batch 128: s (min-max; of the processors) | MB |\n|---|---|---|"
        for count in classes:
            yield f"| {count} {told(alone(observed, 'epoch_mean', count, repeats))}|"
    if "prototypes" in only:
        yield "\n| C | prototypes | s (min-max; of the processors) | MB |\n|---|---|---|---|"
        for count in classes:
            for what in (
                "uniform, one evaluation",
                "uniform, three iterations of L-BFGS",
                "separation, one step",
                "softmax_separation, one step",
            ):
                yield f"| {count} | {what} {told(alone(optimised, what, count, repeats))}|"


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    classes = [int(word) for word in sys.argv[1:] if "=" not in word] or [100, 1000, 2000, 5000, 10_000]
    kinds = options.get("kinds", ",".join(KINDS)).split(",")
    only = options.get("only", "match,observe,prototypes").split(",")
    repeats, dense = int(options.get("repeats", 3)), int(options.get("dense", 5000))
    print(f"{circumstances.told()}, n {repeats}\n")
    for line in rows(classes, kinds, dense, repeats, only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
