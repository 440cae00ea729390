"""What the figures show, as data; draw.py makes pictures of it, and page.py plots that answer to the pointer."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dl2pa.errors import UserError
from dl2pa.report.collect import Cell, grouped

SPLITS = ("head", "medium", "tail")
WORDS = 100  # points that can have a word beside each


@dataclass(frozen=True)
class Series:
    """Points of one row of the tables. ``deviation``: of y; None where there is a single run."""

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    deviation: Sequence[float | None] = ()
    text: Sequence[str] = ()  # a word for each point


@dataclass(frozen=True)
class Figure:
    """``name``: of its file. ``kind``: line, bar (a group of bars for each x), scatter, points (of the plane: one
    scale for both axes, and up to WORDS have their word beside them), or map (``values``, rows by columns, with
    ``rows`` and ``columns`` as their names; None is empty)."""

    name: str
    title: str
    kind: str
    x: str
    y: str
    series: Sequence[Series] = ()
    log_x: bool = False
    values: Sequence[Sequence[float | None]] = ()
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    unit: str = ""

    def ticks(self) -> list[float]:
        """Of a line's logarithmic axis: its values, where they are few, as dimensions and ratios are, and not costs."""
        found = sorted({x for series in self.series for x in series.x}) if self.kind == "line" and self.log_x else []
        return found if len(found) <= 12 else []


def figures(cells: Sequence[Cell]) -> list[Figure]:
    """Every figure for which there are runs."""
    done = [cell for cell in cells if cell.results]
    found: list[Figure] = []
    for (dataset, network), mine in grouped(done, lambda cell: (cell.dataset, cell.network)).items():
        where = f"{dataset}, {network}"
        stem = f"{dataset}-{network}"
        for ratio, same in grouped(mine, lambda cell: cell.imbalance).items():
            at, tag = _at(ratio)
            series = _lines(same, lambda cell: cell.dimension)
            if any(len(row.x) > 1 for row in series):
                found.append(
                    Figure(
                        f"dimension-{stem}{tag}", f"{where}{at}", "line", "dimension d", "top-1 %", series, log_x=True
                    )
                )
            if ratio is not None:
                crowded = any(len(row.x) > 1 for row in series)
                places = grouped(same, lambda cell: cell.dimension) if crowded else {None: same}
                for d, here in places.items():
                    at_d, tag_d = ("", "") if d is None else (f", d = {d}", f"-d{d}")
                    name = f"splits-{stem}{tag}{tag_d}"
                    if bars := _splits(here):
                        found.append(Figure(name, f"{where}{at}{at_d}", "bar", "classes", "top-1 %", bars))
        for d, same in grouped(mine, lambda cell: cell.dimension).items():
            if len({cell.imbalance for cell in same} - {None}) > 1:
                long_tail = [cell for cell in same if cell.imbalance is not None]
                series = _lines(long_tail, lambda cell: cell.imbalance)
                title = f"{where}, d = {d}"
                found.append(
                    Figure(f"imbalance-{stem}-d{d}", title, "line", "imbalance", "top-1 %", series, log_x=True)
                )
        for label, same in grouped(mine, lambda cell: cell.label).items():
            found += _map(label, same, where, stem)
            if moves := _moves(same):
                name = f"moves-{stem}-{_word(label)}"
                title = f"{label} on {where}" + (f", {moves[0].label}" if len(moves) == 1 else "")
                found.append(Figure(name, title, "line", "epoch", "classes moved", moves))
        moved = grouped((cell for cell in mine if any(cell.results[0].get("moved", ()))), lambda cell: cell.label)
        found += [figure for same in moved.values() for figure in _owners(same[0], where, stem)]
    for (dataset, ratio), same in grouped(done, lambda cell: (cell.dataset, cell.imbalance)).items():
        if costs := _costs(same):
            at, tag = _at(ratio)
            name = f"flops-{dataset}{tag}"
            found.append(Figure(name, f"{dataset}{at}", "scatter", "training FLOP", "top-1 %", costs, log_x=True))
    return found


def _at(imbalance: float | None) -> tuple[str, str]:
    """Of titles and of file names."""
    return ("", "") if imbalance is None else (f", imbalance {imbalance:g}", f"-imb{imbalance:g}")


def _lines(cells: Sequence[Cell], x: Any) -> list[Series]:
    made = []
    for label, mine in grouped(cells, lambda cell: cell.label).items():
        ordered = sorted(mine, key=x)
        means = [float(cell.mean() or 0.0) for cell in ordered]
        counts = [f"n = {len(cell.results)}" for cell in ordered]
        made.append(Series(label, [x(cell) for cell in ordered], means, [cell.std() for cell in ordered], counts))
    return made


def _splits(cells: Sequence[Cell]) -> list[Series]:
    made = []
    for cell in cells:
        means = [cell.mean(split) for split in SPLITS]
        if None not in means:
            deviations = [cell.std(split) for split in SPLITS]
            made.append(Series(cell.label, SPLITS, [float(mean or 0.0) for mean in means], deviations))
    return made


def _costs(cells: Sequence[Cell]) -> list[Series]:
    """Each run by what its training cost: where epochs, networks or recipes differ, accuracy against FLOP."""
    made = []
    for label, mine in grouped(cells, lambda cell: cell.method).items():
        runs = sorted(
            ((cell.network, result) for cell in mine for result in cell.results if result.get("flops")),
            key=lambda run: run[1]["flops"],
        )
        if runs:
            words = [f"{network}, {run['epochs']} epochs, {run['seconds']:.0f} s" for network, run in runs]
            made.append(Series(label, [run["flops"] for _, run in runs], [run["top1"] for _, run in runs], (), words))
    costs = [x for series in made for x in series.x]
    return made if costs and max(costs) > 1.05 * min(costs) else []  # heads alone hardly differ


def _map(label: str, cells: Sequence[Cell], where: str, stem: str) -> list[Figure]:
    """Accuracy by dimension and imbalance, where both vary."""
    ratios = sorted({cell.imbalance for cell in cells if cell.imbalance is not None}, reverse=True)
    dimensions = sorted({cell.dimension for cell in cells})
    if min(len(ratios), len(dimensions)) < 2:
        return []
    means = {(cell.imbalance, cell.dimension): cell.mean() for cell in cells}
    return [
        Figure(
            f"map-{stem}-{_word(label)}", f"{label} on {where}", "map", "dimension d", "imbalance",
            values=[[means.get((ratio, d)) for d in dimensions] for ratio in ratios],
            rows=[f"{ratio:g}" for ratio in ratios], columns=[str(d) for d in dimensions], unit="top-1 %",
        )
    ]  # fmt: skip


def _moves(cells: Sequence[Cell]) -> list[Series]:
    """Classes that changed prototype in each epoch, mean over runs; cells in which none ever moved are left out."""
    made = []
    for cell in cells:
        runs = [result["moved"] for result in cell.results if result.get("moved")]
        if any(any(run) for run in runs):
            length = min(map(len, runs))
            means = [sum(run[epoch] for run in runs) / len(runs) for epoch in range(length)]
            made.append(Series(f"d = {cell.dimension}{_at(cell.imbalance)[0]}", list(range(1, length + 1)), means))
    return made


def _owners(cell: Cell, where: str, stem: str) -> list[Figure]:
    """Who moved where: the prototype that each class owns, epoch by epoch, in the cell's first run."""
    lines = cell.folders[0].lines("assignments")
    if len(lines) < 2:
        return []
    names = cell.folders[0].classes() or [str(number) for number in range(len(lines[0]["assignment"]))]
    return [
        Figure(
            f"owners-{stem}-{_word(cell.label)}{_at(cell.imbalance)[1]}-d{cell.dimension}",
            f"{cell.label} on {where}, d = {cell.dimension}, one run", "map", "epoch", "class",
            values=[[line["assignment"][row] for line in lines] for row in range(len(names))],
            rows=names, columns=[str(line["epoch"]) for line in lines], unit="prototype",
        )
    ]  # fmt: skip


def prototypes(cell: Cell) -> Figure | None:
    """The prototypes of a cell's first run and who owns them at the end; in more than two dimensions their first two
    principal components. None where the run has none, or what they are made from is not here."""
    import torch

    from dl2pa.assemble import make_prototypes

    folder = cell.folders[0]
    lines = folder.lines("assignments")
    try:
        points = make_prototypes(folder.config(), keep=False)
    except UserError:  # words or a tree that lie elsewhere
        return None
    if points is None or not lines:
        return None
    assignment = lines[-1]["assignment"]
    if points.shape[1] > 2:
        centred = points - points.mean(0)
        points = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:2].T
    names = folder.classes() or [str(number) for number in range(len(assignment))]
    owned = points[assignment]
    flat = "" if cell.dimension == 2 else ", first two principal components"
    return Figure(
        f"prototypes-{cell.dataset}-{_word(cell.label)}-d{cell.dimension}",
        f"{cell.label} on {cell.dataset}, d = {cell.dimension}{flat}", "points", "", "",
        [Series("prototypes", owned[:, 0].tolist(), owned[:, 1].tolist(), (), names)],
    )  # fmt: skip


def _word(label: str) -> str:
    """As part of a file name; a long one is cut, and told from others by a checksum, as names end at 255 bytes."""
    word = "".join(sign if sign.isalnum() or sign in ".-_=" else "_" for sign in label)
    return word if len(word) <= 120 else f"{word[:111]}-{zlib.crc32(label.encode()):08x}"
