"""Runs an hour of local slots against Hydra's own launcher: python benchmarks/sweep.py [runs=6] [epochs=60] [repeats=3]

The same runs (digits, one thread each) through both, in turn: two slots with a process a run, and one process that
trains one after the other. Prints the ratio of runs an hour (median, and all repeats), and what a run costs its slot
beside training: start, imports, reading data, and the time until the next begins.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

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


def main(runs: int, epochs: int, repeats: int) -> None:
    ratios, seconds, shares, length = [], [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            base = Path(scratch)
            ours = sweep(base / "ours", runs, epochs, ["hydra.launcher.slots=2"])
            basic = sweep(base / "basic", runs, epochs, BASIC)
            per_run, share = outside(base / "ours", ours, 2)
            ratios.append(basic / ours)
            seconds.append(per_run)
            shares.append(share)
            length += [training(folder) for folder in RunFolder.below(base / "basic")]
    spread = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(
        f"{runs} runs of {median(length):.1f} s on one thread: {median(ratios):.2f} times the runs an hour of Hydra's "
        f"own launcher ({spread}); {median(seconds):.1f} s of a slot a run outside of training ({median(shares):.0%}); "
        f"{psutil.cpu_count()} cores"
    )


if __name__ == "__main__":
    given = {"runs": 6, "epochs": 60, "repeats": 3} | {
        key: int(value) for key, value in (word.split("=", 1) for word in sys.argv[1:])
    }
    main(**given)
