"""Every method on CIFAR-10-LT at 0.01 under recipe=fast: python benchmarks/methods.py [slots=2] [KEY=VALUE...]

Works off sweep=fast_methods in results/runs, and the same with half the epochs in results/shorter; a quarter of them is
what benchmarks/rates.py trained to choose the learning rates. Writes docs/methods.md and the curve docs/methods.png.
What is finished is not run again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rates

from dl2pa.errors import UserError, told
from dl2pa.report.draw import draw, styles
from dl2pa.report.figures import Figure, Series
from dl2pa.sweep.compose import composing
from dl2pa.sweep.launch import launch
from dl2pa.sweep.plan import Run, planned

SWEEP = "fast_methods"
PAPER = (1.0e15, 76.9)  # FLOP of its recipe, and the best published top-1
Result = dict[str, Any]


def of_length(rows: Sequence[rates.Row], share: float, runs_dir: str, more: Sequence[str] = ()) -> list[Run]:
    """The runs of ``rows`` with a share of the sweep's epochs, in their order."""
    place = f"runs_dir={rates.ROOT / 'results' / runs_dir}"
    return planned(
        [*row.words, f"optimizer.lr={row.said}", f"epochs={round(share * row.epochs)}", place, *more] for row in rows
    )


def results(runs: Sequence[Run]) -> list[Result]:
    """Of those that have finished."""
    return [result for run in runs if (result := run.folder.result()) is not None]


def draw_curve(names: Sequence[str], lengths: Sequence[Sequence[Result]], folder: Path) -> None:
    """Accuracy by what training cost; the seconds are in the run folders."""
    series = []
    for name, *runs in zip(names, *lengths, strict=True):
        series.append(Series(name, [run["flops"] for run in runs], [run["top1"] for run in runs]))
    series.append(Series("DL2PA's own table, its best row and recipe", [PAPER[0]], [PAPER[1]]))
    series.sort(key=lambda row: -row.y[-1])  # the legend lists them as they end
    epochs = [runs[0]["epochs"] for runs in lengths]
    title = f"CIFAR-10-LT at 0.01, recipe=fast, {', '.join(map(str, epochs[:-1]))} and {epochs[-1]} epochs, one seed"
    figure = Figure("methods", title, "line", "training FLOP", "top-1 %", series, log_x=True)
    draw(figure, folder, styles([figure]), ["png"])


def table(rows: Sequence[rates.Row], names: Sequence[str], done: Sequence[Result]) -> str:
    places = sorted({f"{result['hardware']}, {result['threads']} thread" for result in done})
    revisions = sorted({str(result["revision"]) for result in done})
    lines = [
        "# Every method on CIFAR-10-LT at 0.01",
        "",
        f"recipe=fast, {done[0]['epochs']} epochs, fp32, seed 0, **one seed each (n = 1)**: no difference here has an",
        "error bar. The learning rates were chosen on held-out images ([how](../results/choices/README.md)). Top-1 is",
        "that of the last epoch on the whole test set; head, medium and tail are the classes 0-2, 3-6 and 7-9. Runs",
        "side by side share the machine, so seconds are rough.",
        "",
        f"{'; '.join(places)} a run; revision {', '.join(revisions)}. Command: `python benchmarks/methods.py`.",
        "",
        "| method | d | lr | top-1 % | head | medium | tail | by class means | FLOP | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, name, result in zip(rows, names, done, strict=True):
        shown = [f"{result[key]:.1f}" for key in ("top1", "head", "medium", "tail", "means_top1")]
        cost = f"{result['flops']:.2g} | {result['seconds']:.0f}"
        lines.append(f"| {name} | {result['dimension']} | {row.said} | {' | '.join(shown)} | {cost} |")
    lines += [
        "",
        "![Accuracy against training FLOP, a curve for each method](methods.png)",
        "",
        "*The shortest runs are those of the choice of rates, trained without the held-out tenth. The runs of goto are",
        "older than its unit columns: its subspaces hardly left where they began. They are to be run again.*",
    ]
    return "\n".join([*lines, ""])


def write(rows: Sequence[rates.Row]) -> None:
    """The page and the curve, of the lengths that all rows have finished.

    Raises:
        UserError: the sweep itself has not.
    """
    names = [rates.label(row.words) for row in rows]
    quarter = rates.choosing((row, row.said) for row in rows)
    lengths = [results(runs) for runs in (quarter, of_length(rows, 0.5, "shorter"), of_length(rows, 1, "runs"))]
    if len(lengths[-1]) < len(rows):
        raise UserError(f"{len(rows) - len(lengths[-1])} of {len(rows)} runs did not finish")
    draw_curve(names, [length for length in lengths if len(length) == len(rows)], rates.DOCS)
    (rates.DOCS / "methods.md").write_text(table(rows, names, lengths[-1]))


def main(arguments: Sequence[str]) -> None:
    words = dict(argument.split("=", 1) for argument in arguments)
    slots = int(words.pop("slots", "2"))
    more = [f"{key}={value}" for key, value in words.items()]
    rows = rates.rows_of(SWEEP)
    for share, runs_dir in ((1, "runs"), (0.5, "shorter")):
        launch(of_length(rows, share, runs_dir, more), None, "local", {"slots": slots}, wait=True)
        write(rows)
    print((rates.DOCS / "methods.md").read_text())


if __name__ == "__main__":
    with told(), composing():
        main(sys.argv[1:])
