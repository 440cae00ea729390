"""kill -9 at random moments over a local sweep: python benchmarks/kills.py [kills=200] [seed=0] [folder=DIR]

A sweep of digits runs is worked off by slots while the pool, or one of its runs, is killed again and again, and the
same command started anew. A kill falls within the first half of the time that an undisturbed sweep takes here. Every
run of every sweep must come to the bits of an undisturbed one, and no file that was cut off may be read as whole. Exits
with 1, and says which run differs and how, if not.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from dl2pa.folder import RunFolder, State

ROOT = Path(__file__).parents[1]
RUNS = ["method=dl2pa,psc", "seed=0,1", "epochs=6", "runtime.threads=1", "device=cpu"]
TIMES = ("seconds", "images_per_second", "revision", "revisions")


def start(runs_dir: Path) -> "subprocess.Popen[str]":
    """The sweep, in two slots; data_root is shared, so that prototypes are built under fire, too."""
    words = [*RUNS, f"runs_dir={runs_dir}", f"data_root={runs_dir}/data", "hydra.launcher.slots=2"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def bits(folder: RunFolder) -> dict[str, Any]:
    """All that a finished run has to say, but how long it took."""
    result = folder.result()
    assert result is not None, f"{folder.path} has not finished"
    lines = [{key: line[key] for key in line if key not in TIMES} for line in folder.lines("metrics")]
    kept = {key: result[key] for key in result if key not in TIMES}
    return {"result": kept, "metrics": lines, "assignments": folder.lines("assignments")}


def undisturbed(runs_dir: Path) -> dict[str, dict[str, Any]]:
    said, _ = (process := start(runs_dir)).communicate()
    assert process.returncode == 0, said
    return {folder.run_id: bits(folder) for folder in RunFolder.below(runs_dir)}


def under_fire(runs_dir: Path, kills: int, seconds: float, choose: random.Random) -> Iterator[tuple[Path, int]]:
    """Work the sweep off, killing something ``kills`` times; a finished sweep begins again in the next folder.

    Args:
        seconds: after the start of a pool, within which the kill falls.

    Yields:
        The folder of a sweep that has come to its end, and the kills until then.
    """
    killed = sweeps = 0
    while True:
        process = start(runs_dir / str(sweeps))
        moment = time.monotonic() + choose.uniform(0.0, seconds)
        while killed < kills and process.poll() is None and time.monotonic() < moment:
            time.sleep(0.01)
        if killed < kills and process.poll() is None:
            killed += _kill_one(process, choose)
        said, _ = process.communicate()
        if process.returncode == 0:
            yield runs_dir / str(sweeps), killed
            if killed == kills:
                return
            sweeps += 1
        elif process.returncode != -signal.SIGKILL and not re.search(
            r"\nlost: |killed by SIGKILL before it began", said
        ):
            raise AssertionError(f"the sweep ended with {process.returncode} and said\n{said}")


def _kill_one(process: "subprocess.Popen[str]", choose: random.Random) -> int:
    try:
        runs = psutil.Process(process.pid).children(recursive=True)
        victim = choose.choice([process.pid, *(run.pid for run in runs)])
        os.kill(victim, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0
    return 1


def compare(expected: dict[str, dict[str, Any]], runs_dir: Path) -> list[str]:
    """What differs, a line each."""
    found = {folder.run_id: folder for folder in RunFolder.below(runs_dir)}
    if found.keys() != expected.keys():
        return [f"{runs_dir}: runs {sorted(found)} instead of {sorted(expected)}"]
    problems = []
    for run_id, folder in found.items():
        if (state := folder.state()) is not State.finished:
            problems.append(f"{folder.path} is {state.value}")
            continue
        found_bits = bits(folder)
        problems += [
            f"{folder.path} has other {part}: {found_bits[part]} instead of {wanted}"
            for part, wanted in expected[run_id].items()
            if found_bits[part] != wanted
        ]
    return problems


def check(base: Path, kills: int, seed: int) -> str:
    """Raises AssertionError, naming runs, if anything was lost; else says what was done."""
    began = time.monotonic()
    expected = undisturbed(base / "undisturbed")
    half, done = (time.monotonic() - began) / 2, ""
    for number, (runs_dir, killed) in enumerate(under_fire(base / "killed", kills, half, random.Random(seed)), 1):
        problems = compare(expected, runs_dir)
        assert not problems, "\n".join(problems)
        done = f"{killed} kills over {number} sweeps of {len(expected)} runs: every run came to the same bits"
        print(done, flush=True)
    return done


if __name__ == "__main__":
    options = {"kills": "200", "seed": "0", **dict(word.split("=", 1) for word in sys.argv[1:])}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(options.get("folder", scratch))
        check(base, int(options["kills"]), int(options["seed"]))
