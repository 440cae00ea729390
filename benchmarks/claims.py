"""What the kept runs say about the claims: python benchmarks/claims.py

Writes the tables of results/README.md, each between two comments that name it, leaves the words around them, and draws
docs/dimensions.png. Rows are those of the sweeps named below, of what is finished in results/runs; the differences that
a block of claims turns on are tested together (Welch's test, Holm's correction over the block).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev
from typing import Any

import blocks
import rates
from omegaconf import DictConfig

from dl2pa.identity import leaves_of
from dl2pa.report import stats
from dl2pa.report.collect import Cell
from dl2pa.report.draw import draw, styles
from dl2pa.report.figures import Figure, Series
from dl2pa.report.tables import published_value
from dl2pa.sweep import grid
from dl2pa.sweep.compose import composing
from dl2pa.sweep.plan import planned

PAGE = rates.ROOT / "results" / "README.md"
RUNS = rates.ROOT / "results" / "runs"
# Of each sweep the pairs of rows that its claims compare, at every imbalance and dimension that both have.
PAIRS: dict[str, Sequence[tuple[str, str]]] = {
    "fast_cifar100": [
        ("dl2pa", "hpn"),
        ("dl2pa loss=cross_entropy", "hpn loss=cross_entropy"),
        ("hpn loss=cross_entropy", "hpn"),
        ("dl2pa loss=cross_entropy", "dl2pa"),
        ("dl2pa loss=cross_entropy", "psc.cos_scaled"),
        ("dl2pa_plus", "psc.cos_scaled"),
        ("psc.cos_scaled", "psc.cos_unscaled"),
    ],
    "fast_cifar10_lt": [
        ("dl2pa", "etf"),
        ("dl2pa", "psc.linear"),
        ("etf", "psc.linear"),
        ("balanced_softmax.linear", "psc.linear"),
        ("psc.linear, adjusted after", "balanced_softmax.linear"),
        ("dl2pa", "balanced_softmax.linear"),
        ("dl2pa loss=balanced_cross_entropy assignment=static", "balanced_softmax.linear"),
        ("dl2pa_plus", "balanced_softmax.linear"),
        ("etf", "balanced_softmax.linear"),
    ],
}
PAIRS["fast_cifar100_lt"] = PAIRS["fast_cifar10_lt"]
PAIRS["fast_controls"] = [
    ("dl2pa optimizer.lr=0.03", "etf optimizer.lr=0.03"),
    ("dl2pa optimizer.lr=0.1", "etf optimizer.lr=0.1"),
    ("etf optimizer.lr=0.1", "etf optimizer.lr=0.03"),
    ("dl2pa optimizer.lr=0.1", "dl2pa optimizer.lr=0.03"),
    ("dl2pa loss=balanced_cross_entropy assignment=static", "dl2pa loss=cross_entropy assignment=static"),
    ("dl2pa loss=balanced_cross_entropy assignment=static", "dl2pa optimizer.lr=0.1"),
    ("psc.linear", "psc.frozen_linear"),
    ("etf optimizer.lr=0.1", "psc.frozen_linear"),
    ("dl2pa optimizer.lr=0.03", "psc.frozen_linear"),
]
# Does the loss, the assignment or the vectors' freedom matter, and from which d on?
PAIRS["fast_dimensions"] = [
    ("dl2pa", "hpn"),
    ("dl2pa", "psc.cos_scaled"),
    ("balanced_softmax.cos_scaled", "psc.cos_scaled"),
    ("psc.cos_scaled, adjusted after", "balanced_softmax.cos_scaled"),
    ("dl2pa loss=balanced_cross_entropy", "balanced_softmax.cos_scaled"),
    ("dl2pa_plus", "balanced_softmax.cos_scaled"),
    ("dl2pa_plus", "dl2pa loss=balanced_cross_entropy"),
]
PAIRS["fast_static"] = [
    (
        "dl2pa loss=balanced_cross_entropy assignment=hungarian",
        "dl2pa loss=balanced_cross_entropy assignment=static",
    )
]
PAIRS["fast_longer_cifar10_lt"] = [
    (
        "dl2pa loss.adjust=1.3 loss=balanced_cross_entropy assignment=static",
        "balanced_softmax.linear loss.adjust=1.3",
    )
]
PAIRS["fast_longer_cifar100_lt"] = []  # a single row
# The assignment on the same prototypes (hpn has separated ones, static), the prototypes under the same assignment, and
# how often to match.
PAIRS["fast_assignment"] = [
    ("dl2pa prototypes=separation assignment=hungarian", "hpn"),
    *((f"dl2pa prototypes={p} assignment=hungarian", f"dl2pa prototypes={p} assignment=static")
      for p in ("uniform_readme", "exact")),
    ("dl2pa prototypes=exact assignment=static", "hpn"),
    ("dl2pa prototypes=exact assignment=hungarian", "dl2pa prototypes=separation assignment=hungarian"),
    *((f"dl2pa {often}", "dl2pa prototypes=exact assignment=hungarian")
      for often in (
          "assignment.every=step assignment.statistic=queue assignment.freeze_after=1.0",
          "assignment.every=1 assignment.freeze_after=1.0",
          "assignment.every=5 assignment.freeze_after=1.0",
          "assignment.warmup=0.1 assignment.freeze_after=0.15",
      )),
]  # fmt: skip
Place = tuple[str, str]  # imbalance, dimension


@dataclass(frozen=True)
class Row:
    """What a row's runs came to at a place; ``planned`` is how many the sweep has, ``published`` the report's value.

    ``lacking``: why there is nothing.
    """

    top1: Sequence[float]
    flops: float | None
    planned: int
    published: str
    lacking: str = "missing"

    def text(self) -> str:
        if not self.top1:
            return f"{self.lacking} (0/{self.planned})"
        spread = f" ± {stdev(self.top1):.2f}" if len(self.top1) > 1 else ""
        left = f"/{self.planned}" if len(self.top1) < self.planned else ""
        return f"{mean(self.top1):.2f}{spread} ({len(self.top1)}{left})"


@cache  # for the tables and the figure: all of a sweep's configs are composed
def rows_of(sweep: str) -> dict[tuple[str, Place], Row]:
    """By row label and place, in the order of the sweep; a learning rate is named where a row has several.

    A row is followed by its other readings (``other_readings``).
    """
    jobs = grid.expand(grid.read(sweep))
    rates_of: dict[str, set[str]] = {}
    for job in jobs:
        rates_of.setdefault(rates.label(job), set()).update(word for word in job if word.startswith("optimizer.lr="))
    runs = planned([*job, f"runs_dir={RUNS}"] for job in jobs)
    found: dict[tuple[str, Place], list[Mapping[str, Any] | None]] = {}
    others: dict[tuple[str, Place], dict[str, str]] = {}
    known: dict[tuple[str, Place], str] = {}
    for job, run in zip(jobs, runs, strict=True):
        words = dict(word.split("=", 1) for word in job)
        place = (words.get("imbalance", ""), str(run.cfg.dimension))
        label = rates.label(job)
        if len(rates_of[label]) > 1:
            label += f" optimizer.lr={words['optimizer.lr']}"
        known[label, place] = _published(Cell.of(leaves_of(run.cfg)))
        found.setdefault((label, place), []).append(run.folder.result())
        others[label, place] = other_readings(run.cfg)
    rows = {}
    for (label, place), results in found.items():
        rows[label, place] = _row(results, "top1", known[label, place])
        for how, key in others[label, place].items():
            rows[f"{label}, {how}", place] = _row(results, key, "")
    return rows


def other_readings(cfg: DictConfig) -> dict[str, str]:
    """How else the runs of a row are judged, and result.json's key of that: a softmax that was trained on a long tail
    without the log prior with the prior put right afterwards, and a row of several views by the image alone."""
    readings = {}
    if cfg.imbalance is not None and cfg.loss.name == "cross_entropy" and cfg.loss.adjust == 0:
        readings["adjusted after"] = "adjusted_top1"
    if cfg.augment.views > 1:
        readings["one view"] = "top1_one_view"
    return readings


def _row(results: Sequence[Mapping[str, Any] | None], key: str, published: str) -> Row:
    """``results``: None for a run that is missing."""
    done = [result for result in results if result is not None and key in result]
    flops = mean(result["flops"] for result in done) if done else None
    lacking = "missing" if None in results else "not read"  # runs that are older than this number
    return Row([result[key] for result in done], flops, len(results), published, lacking)


def _published(cell: Cell) -> str:
    """With a question mark where the number is in doubt; empty where there is none."""
    known = published_value(cell)
    return "" if known is None else f"{known.value:.1f}{' ?' if known.doubtful else ''}"


def dimensions(places: Iterable[Place]) -> list[str]:
    """The dimensions of a sweep over them, which are a table's columns; empty where a row has but one."""
    by_imbalance: dict[str, list[str]] = {}
    for imbalance, dimension in dict.fromkeys(places):
        by_imbalance.setdefault(imbalance, []).append(dimension)
    found = [columns for columns in by_imbalance.values() if len(columns) > 1]
    return found[0] if len(found) == len(by_imbalance) == 1 else []


def by_dimension(heading: str, columns: Sequence[str], cells: Mapping[tuple[str, str], str]) -> list[str]:
    """A table of texts by row and dimension."""
    lines = [f"| {heading} | d = " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in dict.fromkeys(name for name, _ in cells):
        lines.append(f"| {name} | " + " | ".join(cells.get((name, column), "") for column in columns) + " |")
    return lines


def accuracies(rows: dict[tuple[str, Place], Row]) -> list[str]:
    """A table of all rows."""
    if columns := dimensions(place for _, place in rows):
        cells = {(label, dimension): row.text() for (label, (_, dimension)), row in rows.items()}
        return by_dimension("row", columns, cells)
    lines = ["| row | imbalance | d | top-1 % (n) | published | training FLOP |", "|---|---|---|---|---|---|"]
    for (label, (imbalance, dimension)), row in rows.items():
        flops = "" if row.flops is None else f"{row.flops:.2g}"
        lines.append(f"| {label} | {imbalance} | {dimension} | {row.text()} | {row.published} | {flops} |")
    return lines


def differences(rows: dict[tuple[str, Place], Row], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A table of the pairs; p and Holm's p where both sides have runs enough."""
    compared = [
        (first, second, place, rows[first, place].top1, rows[second, place].top1)
        for first, second in pairs
        for label, place in rows
        if label == first and (second, place) in rows
    ]
    p = [stats.welch(mine, theirs) for *_, mine, theirs in compared]
    adjusted = iter(stats.holm([value for value in p if value is not None]))
    said = [
        ("missing", "", "") if value is None else (f"{mean(mine) - mean(theirs):+.2f}", _p(value), _p(next(adjusted)))
        for (*_, mine, theirs), value in zip(compared, p, strict=True)
    ]
    if columns := dimensions(place for _, _, place, *_ in compared):
        cells = {
            (f"{first} - {second}", d): f"{points} (p {welch}, Holm {holm})" if welch else points
            for (first, second, (_, d), *_), (points, welch, holm) in zip(compared, said, strict=True)
        }
        return by_dimension("difference", columns, cells)
    lines = ["| difference | imbalance | d | points | Welch's p | Holm's p |", "|---|---|---|---|---|---|"]
    for (first, second, place, *_), words in zip(compared, said, strict=True):
        lines.append(f"| {first} - {second} | {' | '.join([*place, *words])} |")
    return lines


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def filled(text: str) -> str:
    """The page with its tables as the kept runs have them; Hydra must be initialised."""
    for sweep, pairs in PAIRS.items():
        rows = rows_of(sweep)
        text = blocks.filled(text, sweep, "\n".join(accuracies(rows)))
        if pairs:
            text = blocks.filled(text, f"{sweep} differences", "\n".join(differences(rows, pairs)))
    return text


def draw_dimensions() -> None:
    """docs/dimensions.png: the cells of fast_dimensions and fast_static in which no run is missing; Hydra must be
    initialised."""
    lines: dict[str, dict[int, Row]] = {}
    for (label, (_, dimension)), row in [*rows_of("fast_dimensions").items(), *rows_of("fast_static").items()]:
        if len(row.top1) == row.planned:
            lines.setdefault(label.removesuffix(" assignment=hungarian"), {})[int(dimension)] = row
    series = [
        Series(label, list(at), [mean(row.top1) for row in at.values()], [stdev(row.top1) for row in at.values()])
        for label, at in lines.items()
    ]
    title = "CIFAR-10-LT at 0.01, recipe=fast, half the width, three seeds"
    figure = Figure("dimensions", title, "line", "dimension d", "top-1 %", series, log_x=True)
    draw(figure, rates.DOCS, styles([figure]), ["png"])


if __name__ == "__main__":
    with composing():
        PAGE.write_text(filled(PAGE.read_text()))
        draw_dimensions()
