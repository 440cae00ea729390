"""Cells as the paper's tables: rows are methods, columns dimensions and imbalances; one a data set and network."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dl2pa.errors import UserError
from dl2pa.report import presets, published, stats
from dl2pa.report.collect import Cell

Column = tuple[float | None, int]  # imbalance, dimension
_NOTES = (
    "top-1 of the last epoch in percent: mean ± standard deviation (n runs); (1) is a single run, without a deviation.",
    "— is not run; a count of planned runs that are not finished follows a slash.",
    "Behind |: the published value, how far ours lies from it; ? it is in doubt; † ours is of another network, or not "
    "of the data set's own recipe.",
    "Published values are mostly of the best test epoch; on ImageNet often at 256 pixels, as our top1_uncropped is.",
    "A number behind a network's name is its width, where that is not the network's own.",
    "~ runs of this cell do not share precision, threads, hardware or revision.",
)


@dataclass(frozen=True)
class Table:
    """``cells`` by row label and column; ``p``: of Welch's test against the baseline's row, Holm's correction over the
    table, by cell (row label and column)."""

    dataset: str
    network: str
    columns: Sequence[Column]
    rows: Sequence[str]
    cells: Mapping[tuple[str, Column], Cell]
    p: Mapping[tuple[str, Column], float]
    baseline: str | None

    @property
    def title(self) -> str:
        """The data set, the network, and the imbalance and dimension that all columns share."""
        shared = [parts[0] for parts in zip(*map(_parts, self.columns), strict=True) if len({*parts}) == 1 and parts[0]]
        return ", ".join([self.dataset, self.network, *shared])

    def headings(self) -> list[str]:
        """What the columns differ by; what is measured, of a single one."""
        differing = [len({*parts}) > 1 for parts in zip(*map(_parts, self.columns), strict=True)]
        found = [", ".join(itertools.compress(_parts(column), differing)) for column in self.columns]
        return found if any(differing) else ["top-1 %"]


def _parts(column: Column) -> tuple[str, str]:
    ratio, d = column
    return "" if ratio is None else f"imbalance {ratio:g}", f"d = {d}"


def tables(cells: Iterable[Cell], baseline: str | None = None) -> list[Table]:
    """A table for each data set and network.

    Args:
        baseline: the row that the others are tested against.

    Raises:
        UserError: no table has that row.
    """
    grouped: dict[tuple[str, str], dict[tuple[str, Column], Cell]] = {}
    for cell in cells:
        place = grouped.setdefault((cell.dataset, cell.network), {})
        place[cell.label, (cell.imbalance, cell.dimension)] = cell
    made = [_table(*names, found, baseline) for names, found in sorted(grouped.items())]
    labels = sorted({label for table in made for label in table.rows})
    if baseline is not None and baseline not in labels:
        raise UserError(f"baseline={baseline} is not legal: use one of {', '.join(labels)}")
    return made


def _table(dataset: str, network: str, cells: dict[tuple[str, Column], Cell], baseline: str | None) -> Table:
    rows = list(dict.fromkeys(label for label, _ in cells))
    columns = sorted({column for _, column in cells}, key=lambda column: (-(column[0] or 2), column[1]))
    found: dict[tuple[str, Column], float] = {}
    for place, cell in cells.items():
        rival = cells.get((baseline or "", place[1]))
        if rival is None or rival is cell:
            continue
        if (p := stats.welch(cell.values("top1"), rival.values("top1"))) is not None:
            found[place] = p
    adjusted = dict(zip(found, stats.holm(list(found.values())), strict=True))
    return Table(dataset, network, columns, rows, cells, adjusted, baseline)


def published_value(cell: Cell) -> published.Cell | None:
    """What is published of a cell: same method and variant, data set, dimension and imbalance; a source's main setting.

    A number got with another backbone stands for want of one with the cell's own. None for a row that is not the
    method as its preset has it: what was published says nothing about it.
    """
    method, _, variant = cell.method.partition(".")
    same = [
        known
        for known in _published()
        if known.method == method
        and (known.variants is None or variant in known.variants)
        and (known.dataset, known.imbalance) == (cell.dataset, cell.imbalance)
        and (known.dimension == cell.dimension or (known.dimension is None and cell.config["backbone.neck"] == "none"))
        and all(str(cell.config.get(name)) == value for name, value in known.needs.items())
    ]
    if not same or not presets.is_preset(cell.config):
        return None
    return next((known for known in same if known.backbone == cell.backbone), same[0])


@cache
def _published() -> list[published.Cell]:
    return sorted(published.published(), key=lambda known: known.setting is not None)


def text(table: Table, row: str, column: Column) -> str:
    """A cell as it is read, in the signs that ``notes`` explain."""
    cell = table.cells.get((row, column))
    if cell is None:
        return ""
    n, mean, std = len(cell.results), cell.mean(), cell.std()
    if mean is None:
        return f"— /{cell.missing}"
    of = f"/{n + cell.missing}" if cell.missing else ""
    shown = f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}") + f" ({n}{of})"
    shown += "~" if cell.mixed() else ""
    if (p := table.p.get((row, column))) is not None:
        shown += f" p {p:.3f}" if p >= 0.001 else " p <.001"
        shown += "*" if p < 0.05 else ""
    if (known := published_value(cell)) is not None:
        other = known.backbone != cell.backbone or not presets.is_recipe(cell.config)
        marks = ("?" if known.doubtful else "") + ("†" if other else "")
        shown += f" | {known.value:g}{marks}"
        if (ours := cell.mean(known.reading)) is not None:
            shown += f" {ours - known.value:+.2f}"
    return shown


def markdown(found: Sequence[Table]) -> str:
    lines = ["# Results", "", *(f"- {note}" for note in notes(found)), ""]
    for table in found:
        lines += [f"## {table.title}", "", "| method | " + " | ".join(table.headings()) + " |"]
        lines.append("|---|" + "---|" * len(table.columns))
        for row in table.rows:
            shown = [text(table, row, column).replace(" | ", " \\| ") for column in table.columns]
            lines.append(f"| {row} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def latex(found: Sequence[Table]) -> str:
    """A tabular environment for each table, for booktabs."""
    lines = [f"% {note}" for note in notes(found)]
    for table in found:
        lines += ["", f"% {table.title}", r"\begin{tabular}{l" + "c" * len(table.columns) + "}", r"\toprule"]
        lines.append(" & ".join(["method", *map(_tex, table.headings())]) + r" \\")
        lines.append(r"\midrule")
        for row in table.rows:
            shown = [_tex(text(table, row, column)) for column in table.columns]
            lines.append(" & ".join([_tex(row), *shown]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, ""])


def notes(found: Sequence[Table]) -> list[str]:
    """What the signs in the tables mean, a sentence each."""
    baseline = found[0].baseline if found else None
    tested = (
        f"p: Welch's test against {baseline}, with {stats.LEAST} runs or more on both sides, Holm's correction over "
    )
    return [*_NOTES, *([tested + "the table; * is below .05."] if baseline else [])]


_TEX = {"±": r"$\pm$", "†": r"$\dagger$", "—": "--", "_": r"\_", "%": r"\%", "~": r"$\sim$", "|": r"$|$", "<": "$<$"}


def _tex(plain: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in plain)


_RUN = """
dataset method loss_name prototypes assignment backbone width dimension imbalance seed epochs num_train num_test top1
top5 macro head medium tail top1_best top1_uncropped top1_one_view means_top1 adjusted_top1 adjusted_tail super_top1
val_top1 val_macro ece ece_as_trained loss nc1 nc3 cosine_mean words_closeness flops seconds images_per_second device
hardware precision threads torch revision group run_id
""".split()  # noqa: SIM905 - a list of strings would fill a page


def write_runs(path: Path, cells: Iterable[Cell]) -> None:
    """A line for each finished run; a key that a run does not have is empty."""
    _write(path, ["label", *_RUN], ({"label": cell.label, **result} for cell in cells for result in cell.results))


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """A line for each cell: means, deviations, n."""
    measured = ["top1", "macro", "head", "medium", "tail", "ece", "means_top1", "adjusted_top1", "top1_best"]
    measured += ["top1_uncropped", "top1_one_view"]
    names = ["dataset", "network", "label", "method", "dimension", "imbalance", "n", "missing", "mixed"]
    names += [f"{key}_{part}" for key in measured for part in ("mean", "std")]
    names += ["published", "published_backbone", "published_source", "doubtful"]

    def lines() -> Iterable[dict[str, Any]]:
        for cell in cells:
            known = published_value(cell)
            line = {name: getattr(cell, name) for name in names[:6]}
            line |= {"n": len(cell.results), "missing": cell.missing, "mixed": " ".join(cell.mixed())}
            line |= {f"{key}_mean": cell.mean(key) for key in measured}
            line |= {f"{key}_std": cell.std(key) for key in measured}
            if known is not None:
                line |= {"published": known.value, "published_backbone": known.backbone}
                line |= {"published_source": known.source, "doubtful": known.doubtful}
            yield line

    _write(path, names, lines())


def _write(path: Path, names: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
