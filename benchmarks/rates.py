"""Learning rates for the rows of sweeps: python benchmarks/rates.py SWEEP... [slots=2] [data_root=DIR] [KEY=VALUE...]

A row is what is left of a sweep's job without its seed and rate; where its imbalance varies, the row at 0.01 stands for
all. Of three rates that one is chosen whose run, with a quarter of the epochs and one seed, is most accurate (mean over
the classes) on a tenth of each class's images, held out before the tail is cut; where it is the smallest or the largest
tried, the next one outside is tried, too, until it lies between two others. Test images take no part. The runs lie in
results/choices, and what is finished is not run again. Writes results/choices/README.md; says where a sweep has
another rate than the chosen one, and ends with 1 then.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dl2pa.errors import UserError, told
from dl2pa.sweep import grid
from dl2pa.sweep.compose import composing
from dl2pa.sweep.launch import launch
from dl2pa.sweep.plan import Run, distinct, planned

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHOICES = ROOT / "results" / "choices"
RATES = (0.03, 0.1, 0.4)
OUTSIDE = {0.03: 0.01, 0.01: 0.003, 0.4: 1.6, 1.6: 6.4}
LEFT_OUT = ("seed", "imbalance", "optimizer.lr")


@dataclass
class Row:
    """``words``: of one run without rate; ``said``: the rate in the sweep; ``epochs``: of the sweep;
    ``accuracy``: of each rate tried, in percent, minus infinity where the run failed."""

    sweep: str
    words: Sequence[str]
    said: float
    epochs: int = 0
    accuracy: dict[float, float] = field(default_factory=dict)

    @property
    def chosen(self) -> float | None:
        best = max(self.accuracy, key=lambda rate: self.accuracy[rate], default=math.nan)
        return best if math.isfinite(self.accuracy.get(best, -math.inf)) else None

    def untried(self) -> list[float]:
        if not self.accuracy:
            return list(RATES)
        edges = {min(self.accuracy), max(self.accuracy)}
        return [OUTSIDE[rate] for rate in edges & {self.chosen} & OUTSIDE.keys() if OUTSIDE[rate] not in self.accuracy]


def rows_of(sweep: str) -> list[Row]:
    """The rows of the sweep called so; Hydra must be initialised."""
    found: dict[tuple[str, ...], Row] = {}
    for job in grid.expand(grid.read(sweep)):
        words = dict(word.split("=", 1) for word in job)
        kept = tuple(f"{key}={value}" for key, value in words.items() if key not in LEFT_OUT)
        at = ["imbalance=0.01"] if "imbalance" in words else []
        found.setdefault(kept, Row(sweep, [*kept, *at, "seed=0"], float(words["optimizer.lr"])))
    rows = list(found.values())
    for row, whole in zip(rows, planned([row.words for row in rows]), strict=True):
        row.epochs = whole.cfg.epochs
    return rows


def choosing(wanted: Iterable[tuple[Row, float]], more: Sequence[str] = ()) -> list[Run]:
    """The runs that try rates for rows."""
    jobs = []
    for row, rate in wanted:
        epochs = round(row.epochs / 4)
        shorter = [f"epochs={epochs}", f"eval_every={epochs}", "holdout=0.1", f"runs_dir={CHOICES}"]
        jobs.append([*row.words, *shorter, f"optimizer.lr={rate}", *more])
    return planned(jobs)


def try_rates(rows: Sequence[Row], work_off: Callable[[Sequence[Run]], None], more: Sequence[str] = ()) -> None:
    """Fill in ``accuracy`` of all rows; ``work_off`` trains what is not finished, or does not."""
    while wanted := [(row, rate) for row in rows for rate in row.untried()]:
        runs = choosing(wanted, more)
        work_off(distinct(runs))
        for (row, rate), run in zip(wanted, runs, strict=True):
            result = run.folder.result()
            row.accuracy[rate] = -math.inf if result is None else result["val_macro"]


def label(words: Sequence[str]) -> str:
    """A row of a sweep by its method, and what of loss, prototypes and assignment is not the preset's."""
    values = dict(word.split("=", 1) for word in words)
    variant = f".{values['method.variant']}" if "method.variant" in values else ""
    parts = [word for word in words if word.startswith(("loss", "prototypes", "assignment"))]
    return " ".join([values["method"] + variant, *parts])


def page(rows: Sequence[Row]) -> str:
    rates = sorted({rate for row in rows for rate in row.accuracy})
    lines = [
        "# Chosen learning rates",
        "",
        "Accuracy in percent, mean over the classes, on a tenth of each class's training images, held out before the",
        "tail is cut; a quarter of the epochs of the sweep, seed 0, **one seed**. The bold rate is the one in the",
        "sweep. These runs enter no table. Written by",
        f"`python benchmarks/rates.py {' '.join(dict.fromkeys(row.sweep for row in rows))}`.",
        "",
        f"| sweep | row | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---|---|" + "---|" * len(rates),
    ]
    for row in rows:
        shown = []
        for rate in rates:
            value = row.accuracy.get(rate)
            text = "" if value is None else "failed" if value == -math.inf else f"{value:.1f}"
            shown.append(f"**{text}**" if rate == row.chosen else text)
        lines.append(f"| {row.sweep} | {label(row.words)} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str]) -> None:
    sweeps = [word for word in arguments if "=" not in word]
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    slots = int(words.pop("slots", "2"))
    if not sweeps:
        raise UserError(__doc__ and __doc__.splitlines()[0])
    rows = [row for sweep in sweeps for row in rows_of(sweep)]

    def train(runs: Sequence[Run]) -> None:
        launch(runs, None, "local", {"slots": slots}, wait=True)  # a run that fails is shown, and is an answer

    try_rates(rows, train, [f"{key}={value}" for key, value in words.items()])
    (CHOICES / "README.md").write_text(page(rows))
    print(page(rows))
    others = [
        f"sweep={row.sweep} {label(row.words)}: {row.said:g}, chosen {row.chosen}"
        for row in rows
        if row.said != row.chosen
    ]
    if others:
        raise UserError("\n".join([*others, "these rows of the sweeps have another rate than the chosen one"]))


if __name__ == "__main__":
    with told(), composing():
        main(sys.argv[1:])
