"""Every method on CIFAR-10-LT at 0.01 under recipe=fast: python benchmarks/methods.py [data_root=DIR] [slots=2]

For each method a learning rate, of three, by the accuracy on a tenth of the images of each class, held out before the
tail is cut, at a quarter of the epochs; where the best is the smallest or the largest tried, the next one outside is
tried, too, until the best lies between two others. Then runs with all epochs, half and a quarter of them, at d = 64
where the method allows it. One seed. Writes docs/methods.md and the curve docs/methods.png; the rates are tried under
results/choices, the runs lie under results/methods, and what is finished is not run again. About five hours of training
on two cores with AVX2 alone.
"""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dl2pa import config
from dl2pa.folder import RunFolder
from dl2pa.report.draw import draw, styles
from dl2pa.report.figures import Figure, Series

ROOT = Path(__file__).parents[1]
COMPOSING = Lock()  # Hydra composes one config at a time
EPOCHS, RATES = 20, (0.03, 0.1, 0.4)
SHORTER = (5, 10)  # epochs, for the curve
PAPER = (1.0e15, 76.9)  # FLOP of its recipe, and the best published top-1
OUTSIDE = {0.03: 0.01, 0.01: 0.003, 0.4: 1.6, 1.6: 6.4}
COMMON = ["dataset=cifar10_lt", "imbalance=0.01", "recipe=fast", "precision=fp32", "runtime.threads=1", "seed=0"]
AT_64 = ["dimension=64", "backbone.neck=linear"]
METHODS: dict[str, list[str]] = {
    "psc.cos_scaled": ["method=psc", "method.variant=cos_scaled", *AT_64],
    "balanced_softmax.linear": ["method=balanced_softmax", "method.variant=linear", *AT_64],
    "etf": ["method=etf", *AT_64],
    "dl2pa": ["method=dl2pa", *AT_64],
    "dl2pa_plus": ["method=dl2pa_plus", *AT_64],
    "fixed prototypes, balanced": ["method=dl2pa", "assignment=static", "loss=balanced_cross_entropy", *AT_64],
    "psc.linear": ["method=psc", "method.variant=linear", *AT_64],
    "hpn": ["method=hpn", *AT_64],
    "ebv": ["method=ebv", *AT_64],
    "kasarla": ["method=kasarla"],
    "dnc": ["method=dnc", *AT_64],
    "goto": ["method=goto", *AT_64],
    "tsc": ["method=tsc", *AT_64],
    "word2vec": ["method=word2vec"],
    "balanced_softmax.cos_scaled": ["method=balanced_softmax", "method.variant=cos_scaled", *AT_64],
    "dl2pa, balanced": ["method=dl2pa", "loss=balanced_cross_entropy", *AT_64],
    "psc.cos_unscaled": ["method=psc", "method.variant=cos_unscaled", *AT_64],
    "psc.frozen_linear": ["method=psc", "method.variant=frozen_linear", *AT_64],
}


def choosing(name: str, rate: float) -> list[str]:
    return ["holdout=0.1", *_words(name, rate, EPOCHS // 4, ROOT / "results" / "choices")]


def full(name: str, rate: float, epochs: int = EPOCHS) -> list[str]:
    return _words(name, rate, epochs, ROOT / "results" / "methods" / "runs")


def _words(name: str, rate: float, epochs: int, runs_dir: Path) -> list[str]:
    lengths = [f"epochs={epochs}", "eval_every=5", f"optimizer.lr={rate}"]
    return [*COMMON, *METHODS[name], *lengths, f"runs_dir={runs_dir}"]


def composed(words: list[str]) -> DictConfig:
    with COMPOSING, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=words)


def work_off(words: list[str], common: list[str]) -> dict[str, Any] | None:
    """The result of the run that ``words`` describe, trained if need be; None where that failed, which is said."""
    folder = RunFolder.of(composed(words))
    if folder.result() is None:
        command = [sys.executable, str(ROOT / "launch.py"), *words, *common]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(" ".join(words), *done.stdout.splitlines()[-3:], sep="\n  ", flush=True)
    return folder.result()


def row(name: str, common: list[str]) -> tuple[float | None, dict[str, Any] | None]:
    """The rate chosen for a method, and its run with all training images."""
    macro: dict[float, float] = {}
    waiting = list(RATES)
    while waiting:
        rate = waiting.pop(0)
        result = work_off(choosing(name, rate), common)
        macro[rate] = -math.inf if result is None else result["val_macro"]
        if not waiting and chosen(macro) in (min(macro), max(macro)):
            waiting += [OUTSIDE[rate] for rate in [chosen(macro)] if rate in OUTSIDE]
    rate = chosen(macro)
    return rate, None if rate is None else work_off(full(name, rate), common)


def chosen(macro: dict[float, float]) -> float | None:
    """The rate of a method's best run on held-out images; None where all of its runs failed."""
    best = max(macro, key=lambda rate: macro[rate])
    return best if math.isfinite(macro[best]) else None


def curve(name: str, rate: float | None, common: list[str]) -> list[dict[str, Any]]:
    """A method's runs by their lengths, the shortest first."""
    found = [work_off(full(name, rate, epochs), common) for epochs in (*SHORTER, EPOCHS)] if rate is not None else []
    return [result for result in found if result is not None]


def draw_curve(curves: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Accuracy by what training cost; the seconds are in the run folders."""
    series = [
        Series(name, [run["flops"] for run in runs], [run["top1"] for run in runs]) for name, runs in curves.items()
    ]
    series.append(Series("the paper's recipe, best published", [PAPER[0]], [PAPER[1]]))
    title = f"CIFAR-10-LT at 0.01, recipe=fast, {', '.join(map(str, SHORTER))} and {EPOCHS} epochs, one seed"
    figure = Figure("methods", title, "line", "training FLOP", "top-1 %", series, log_x=True)
    draw(figure, folder, styles([figure]))
    (folder / "methods.pdf").unlink()  # the repository keeps the picture that pages show


def table(rows: dict[str, tuple[float | None, dict[str, Any] | None]]) -> str:
    done = [result for _, result in rows.values() if result is not None]
    places = sorted({f"{result['hardware']}, {result['threads']} thread" for result in done})
    revisions = sorted({str(result["revision"]) for result in done})
    lines = [
        "# Every method on CIFAR-10-LT at 0.01",
        "",
        f"recipe=fast, {EPOCHS} epochs, fp32, seed 0, **one seed each (n = 1)**: no difference here has an error bar.",
        f"The learning rate is the best of {', '.join(map(str, RATES))} on a tenth of the images of each class, held",
        f"out before the tail is cut, after {EPOCHS // 4} epochs; where that is at the grid's edge, the next rate",
        "outside is tried, too, until it is not. Top-1 is that of the last epoch on the whole test set; head,",
        "medium and tail are the classes 0-2, 3-6 and 7-9. Runs side by side share the machine, so seconds are rough.",
        "",
        f"{'; '.join(places)} a run; revision {', '.join(revisions)}. Command: `python benchmarks/methods.py`.",
        "",
        "| method | d | lr | top-1 % | head | medium | tail | by class means | FLOP | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (rate, result) in rows.items():
        if result is None:
            lines.append(f"| {name} | | {rate or 'none worked'} | missing | | | | | | |")
            continue
        shown = [f"{result[key]:.1f}" for key in ("top1", "head", "medium", "tail", "means_top1")]
        cost = f"{result['flops']:.2g} | {result['seconds']:.0f}"
        lines.append(f"| {name} | {result['dimension']} | {rate} | {' | '.join(shown)} | {cost} |")
    lines += ["", "![Accuracy against training FLOP, a curve for each method](methods.png)"]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> None:
    config.register()
    words = dict(argument.split("=", 1) for argument in arguments)
    slots = int(words.pop("slots", "2"))
    common = [f"{key}={value}" for key, value in words.items()]
    with ThreadPoolExecutor(slots) as pool:
        rows = dict(zip(METHODS, pool.map(lambda name: row(name, common), METHODS), strict=True))
        curves = dict(zip(METHODS, pool.map(lambda name: curve(name, rows[name][0], common), METHODS), strict=True))
    draw_curve(curves, ROOT / "docs")
    text = table(rows)
    (ROOT / "docs" / "methods.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
