"""python -m dl2pa probe FOLDER: a few seconds of a run's training, measured (sweep/sharing.py)."""

import json
import resource
import sys
from collections.abc import Sequence

import psutil
import torch

from dl2pa import run
from dl2pa.device import DEFAULT_THREADS, resolve_device, resolve_precision
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.timing import training

SECONDS = 5.0


def main(arguments: Sequence[str]) -> None:
    """Builds what the run needs, says that it is ready, waits for a line, trains, and prints what it measured.

    Nothing is written into the folder, and the run may be in progress elsewhere.

    Raises:
        UserError: not one run folder, or what the run itself would raise.
    """
    if len(arguments) != 1:
        raise UserError("usage: python -m dl2pa probe FOLDER")
    cfg = RunFolder.existing(arguments[0]).config()
    device = resolve_device(cfg.device)
    torch.set_num_threads(cfg.runtime.threads or DEFAULT_THREADS)
    precision = resolve_precision(cfg.precision.value, device)
    trainer = run.make_trainer(cfg, run.load_data(cfg), device, precision)
    training(trainer, 0)  # what compiles does so before, and not beside the others
    print("ready", flush=True)
    if sys.stdin.readline() == "":
        return
    speed = training(trainer, SECONDS)
    memory, capacity = _memory(device)
    print(json.dumps({"images_per_second": speed, "memory": memory, "capacity": capacity}))


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that this process took at most, and that there were for it and others: of the GPU (which probes have to
    themselves: what is taken is theirs), or of the machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    # Linux counts in KiB; what is mapped from files (images, libraries) lies there once for all.
    shared = getattr(psutil.Process().memory_info(), "shared", 0)
    taken = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - shared
    return taken, psutil.virtual_memory().available + taken
