"""How many runs share a device best: a few seconds of training, side by side, for 1, 2, 4 and more of them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dl2pa.folder import RunFolder

GAIN = 1.05  # what more runs at a time have to bring: noise alone shows 2 or 3 %
ROOM = 0.9  # share of the memory that all runs together may take


@dataclass(frozen=True)
class Measured:
    """What a run did beside others: images a second; bytes of the device's memory that it took, and could have had."""

    images_per_second: float
    memory: int
    capacity: int


def best(folder: RunFolder, counts: Sequence[int], environment: Callable[[int], Mapping[str, str]]) -> int:
    """How many runs like ``folder``'s do most images a second together, of ``counts`` (rising); says what it found.

    A number that brings less than GAIN over the one before, or whose runs would fill the memory, ends the search.

    Args:
        environment: what a run has besides this process's environment where that many share the device.
    """
    chosen, speed, memory, capacity = counts[0], 0.0, 0, 1
    for count in counts:
        if count * memory > ROOM * capacity:
            print(f"probe: {count} runs at a time would take {count * memory / 2**30:.1f} GiB", flush=True)
            break
        found = side_by_side(folder, count, {**os.environ, **environment(count)})
        if not found:
            break
        total = sum(run.images_per_second for run in found)
        memory, capacity = max(run.memory for run in found), found[0].capacity
        print(f"probe: {count} at a time, {total:.0f} images/s, {memory / 2**30:.1f} GiB a run", flush=True)
        if total <= GAIN * speed:
            break
        chosen, speed = count, total
    return chosen


def side_by_side(folder: RunFolder, count: int, environment: Mapping[str, str]) -> list[Measured]:
    """What ``count`` processes measure that train at the same time; empty where one of them could not."""
    command = [sys.executable, "-m", "dl2pa", "probe", str(folder.path)]
    processes = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    ready = [process.stdout is not None and process.stdout.readline() != "" for process in processes]
    for process in processes if all(ready) else ():  # all of them, before any is waited for; without it they end
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("go\n")
            process.stdin.flush()
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode != 0 for process in processes):
        return []
    return together([json.loads(line) for line in said])


def together(answers: Sequence[Mapping[str, float]]) -> list[Measured]:
    """What probes say of themselves, put together: of a GPU's memory they know what all of them take."""
    taken = [answer["taken"] if "taken" in answer else answer["taken_by_all"] / len(answers) for answer in answers]
    capacity = int(min(answer["free"] for answer in answers) + sum(taken))
    return [
        Measured(answer["images_per_second"], int(memory), capacity)
        for answer, memory in zip(answers, taken, strict=True)
    ]
