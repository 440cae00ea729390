"""How long a report on many runs takes: python benchmarks/report.py [runs=1000]

The runs are written, not trained: 11 rows over 5 dimensions, 3 imbalances, 2 data sets and 4 seeds, with 100 epochs of
metrics each. Prints seconds for tables and CSV, and for all of it.
"""

import contextlib
import io
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "report"))

import circumstances
from test_report import write

from dl2pa.report import command

METHODS = (
    *(f"method={name}" for name in ("dl2pa", "hpn", "tsc", "psc", "balanced_softmax", "goto", "ebv", "dl2pa_plus")),
    *(f"method=dl2pa assignment={name}" for name in ("static", "sinkhorn", "quadratic")),
)


def fill(runs_dir: Path, runs: int) -> None:
    grid = itertools.product(
        ("cifar10_lt", "cifar100_lt"), (0.005, 0.01, 0.02), (8, 16, 32, 64, 128), METHODS, range(4)
    )
    for dataset, ratio, d, method, seed in itertools.islice(grid, runs):
        words = (f"dataset={dataset}", *method.split(), f"dimension={d}", f"imbalance={ratio}", f"seed={seed}")
        folder = write(runs_dir, *words, "backbone.neck=linear", top1=60 + 10 * ratio + d / 100 + seed)
        for epoch in range(100):
            folder.append("metrics", {"epoch": epoch + 1, "loss": 1.0, "top1": 50.0, "moved": 0.0})


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        fill(base / "runs", runs)
        print(f"{circumstances.told()}\n\n| {runs:,} runs | s (min-max) | n |\n|---|---|---|")
        for name, words in (("tables and CSV", ["figures=false"]), ("all", [])):
            took = []
            for _ in range(3 if words else 1):
                shutil.rmtree(base / "out", ignore_errors=True)
                began = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    command.main([str(base / "runs"), "--out", str(base / "out"), *words])
                took.append(time.perf_counter() - began)
            print(f"| {name} | {median(took):.1f} ({min(took):.1f}-{max(took):.1f}) | {len(took)} |", flush=True)


if __name__ == "__main__":
    main(int(dict(word.split("=", 1) for word in sys.argv[1:]).get("runs", 1000)))
