"""Runs an hour of local slots against Hydra's own launcher: python benchmarks/sweep.py [KEY=VALUE...]

Keys: runs=8, epochs=60, repeats=3, slots=1,2,4. The same runs (digits, one thread each) through Hydra's launcher, which
trains one after the other in its own process, and through k slots with a process a run for each k of ``slots``, all in
turn. Prints runs an hour, the ratio to Hydra's (median and all repeats), and what a run costs its slot beside training:
start, imports, reading data, and the time until the next begins.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import circumstances
import psutil

from dl2pa.folder import RunFolder

ROOT = Path(__file__).parents[1]
COMMON = ("dataset=digits", "runtime.threads=1", "device=cpu", "eval_every=10")
BASIC = ("hydra/launcher=basic", "hydra/sweeper=basic")


def sweep(runs_dir: Path, runs: int, epochs: int, words: Sequence[str]) -> float:
    """Seconds that it took."""
    seeds = ",".join(map(str, range(runs)))
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *COMMON, f"seed={seeds}", f"epochs={epochs}", *words]
    began = time.perf_counter()
    subprocess.run(
        [*command, f"runs_dir={runs_dir}", f"data_root={runs_dir}/data"], cwd=ROOT, check=True, capture_output=True
    )
    return time.perf_counter() - began


def training(folder: RunFolder) -> float:
    """Seconds of a run from its first step to its end."""
    result = folder.result()
    assert result is not None
    return float(result["seconds"])


def outside(runs_dir: Path, took: float, count: int) -> tuple[float, float]:
    """Seconds of a slot for each run in which it does not train (start, imports, data), and their share of its time."""
    busy = [training(folder) for folder in RunFolder.below(runs_dir)]
    return (took * count - sum(busy)) / len(busy), 1 - sum(busy) / (took * count)


def main(runs: int, epochs: int, repeats: int, slots: Sequence[int]) -> None:
    lengths: list[float] = []
    hydra: list[float] = []
    ours: dict[int, list[float]] = {count: [] for count in slots}
    beside: dict[int, list[tuple[float, float]]] = {count: [] for count in slots}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            base = Path(scratch)
            hydra.append(sweep(base / "hydra", runs, epochs, BASIC))
            lengths += [training(folder) for folder in RunFolder.below(base / "hydra")]
            for count in slots:
                took = sweep(base / str(count), runs, epochs, [f"hydra.launcher.slots={count}"])
                ours[count].append(took)
                beside[count].append(outside(base / str(count), took, count))
    print(
        f"{circumstances.told()}; {runs} runs of {median(lengths):.1f} s on one thread, n {repeats}, "
        f"{psutil.cpu_count()} cores\n"
    )
    print("| | runs an hour | times Hydra's own launcher | s of a slot a run beside training |\n|---|---|---|---|")
    print(f"| Hydra's own launcher | {3600 * runs / median(hydra):.0f} | | |")
    for count in slots:
        ratios = sorted(theirs / took for theirs, took in zip(hydra, ours[count], strict=True))
        seconds, share = (median(values) for values in zip(*beside[count], strict=True))
        print(
            f"| {count} slot{'s' if count > 1 else ''} | {3600 * runs / median(ours[count]):.0f} | "
            f"{median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)}) | {seconds:.1f} ({share:.0%}) |"
        )


if __name__ == "__main__":
    given = {"runs": "8", "epochs": "60", "repeats": "3", "slots": "1,2,4"}
    given |= dict(word.split("=", 1) for word in sys.argv[1:])
    main(
        **{key: int(given[key]) for key in ("runs", "epochs", "repeats")},
        slots=[int(count) for count in given["slots"].split(",")],
    )
