"""python -m dl2pa report DIR... --out OUT: finished runs as CSV, tables, figures and one page."""

from collections.abc import Sequence
from pathlib import Path

from dl2pa.errors import UserError
from dl2pa.folder import writing
from dl2pa.report import tables
from dl2pa.report.collect import Cell, collect

USAGE = "usage: python -m dl2pa report DIR... --out OUT [sweep=NAME] [baseline=ROW] [over=KEY,KEY] [figures=false]"


def main(arguments: Sequence[str]) -> None:
    """Writes OUT/runs.csv, cells.csv, tables.md, tables.tex, index.html and figures/*.png, *.pdf; prints the tables.

    Raises:
        UserError: wrong words, no runs, or OUT cannot be written.
    """
    directories, out, words = _read(arguments)
    over = [key for key in words.get("over", "").split(",") if key]
    cells = collect(directories, words.get("sweep"), over)
    found = tables.tables(cells, words.get("baseline"))
    with writing(out, "--out", "--out DIR"):
        out.mkdir(parents=True, exist_ok=True)
        tables.write_runs(out / "runs.csv", cells)
        tables.write_cells(out / "cells.csv", cells)
        (out / "tables.md").write_text(tables.markdown(found))
        (out / "tables.tex").write_text(tables.latex(found))
    print(tables.markdown(found))
    finished = sum(len(cell.results) for cell in cells)
    missing = sum(cell.missing for cell in cells)
    if words["figures"] == "true":
        _pictures(cells, found, out)
    print(f"{finished} finished runs in {len(cells)} cells, {missing} planned ones are missing: {out}/index.html")


def _pictures(cells: Sequence[Cell], found: Sequence[tables.Table], out: Path) -> None:
    # matplotlib and plotly take two seconds to import: tables do without.
    from dl2pa.report import draw, figures, page

    shown = figures.figures(cells)
    owners: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if cell.results and cell.config["prototypes.kind"] != "none":
            owners.setdefault((cell.dataset, cell.config["prototypes.kind"]), cell)
    shown += [figure for cell in owners.values() if (figure := figures.prototypes(cell)) is not None]
    style = draw.styles(shown)
    with writing(out, "--out", "--out DIR"):
        (out / "figures").mkdir(exist_ok=True)
        for figure in shown:
            draw.draw(figure, out / "figures", style)
        (out / "index.html").write_text(page.page(found, shown, style))


def _read(arguments: Sequence[str]) -> tuple[list[str], Path, dict[str, str]]:
    rest = list(arguments)
    if rest.count("--out") != 1 or rest[-1] == "--out":
        raise UserError(USAGE)
    at = rest.index("--out")
    out = Path(rest[at + 1])
    del rest[at : at + 2]
    words = {"figures": "true"} | dict(word.split("=", 1) for word in rest if "=" in word)
    directories = [word for word in rest if "=" not in word]
    if unknown := [key for key in words if key not in ("sweep", "baseline", "over", "figures")]:
        raise UserError(f"{unknown[0]}={words[unknown[0]]} is not legal: {USAGE}")
    if words["figures"] not in ("true", "false"):
        raise UserError(f"figures={words['figures']} is not legal: use true or false")
    if not directories:
        raise UserError(USAGE)
    return directories, out, words
