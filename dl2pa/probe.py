"""python -m dl2pa probe FOLDER: a few seconds of a run's training, measured (sweep/sharing.py)."""

import contextlib
import json
import resource
import sys
from collections.abc import Sequence

import psutil
import torch

from dl2pa.assemble import load_data, make_trainer
from dl2pa.device import prepare, resolve_device, resolve_precision
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.memory import available
from dl2pa.timing import Again, training

SECONDS = 5.0


def main(arguments: Sequence[str]) -> None:
    """Builds what the run needs, says that it is ready, waits for a line, trains, and prints what it measured.

    Nothing is written into the folder, and the run may be in progress elsewhere.

    Raises:
        UserError: not one run folder, or what the run itself would raise.
    """
    if len(arguments) != 1:
        raise UserError("usage: python -m dl2pa probe FOLDER")
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a run says, of its compiler for one
        cfg = RunFolder.existing(arguments[0]).config()
        device = resolve_device(cfg.device)
        prepare(cfg.runtime.threads)
        precision = resolve_precision(cfg.precision.value, device)
        trainer = make_trainer(cfg, load_data(cfg), device, precision)
        # Both sizes of batches: what compiles does so before, and not beside the others.
        loader = trainer.loader
        ends = [next(iter(loader.epoch(0, step))) for step in (0, loader.steps - 1)]
        trainer.loader = Again(ends, loader.steps)
        training(trainer, 0)
        trainer.loader = loader
        print("ready", file=answers, flush=True)
        if sys.stdin.readline() == "":
            return
        speed = training(trainer, SECONDS)
        print(json.dumps({"images_per_second": speed, **_memory(device)}), file=answers)


def _memory(device: torch.device) -> dict[str, int]:
    """Bytes taken and free: of a GPU those that all of its probes take, of the machine those of this one at most."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"taken_by_all": total - free, "free": free}
    # Linux counts in KiB; what is mapped from files (images, libraries) lies there once for all.
    shared = getattr(psutil.Process().memory_info(), "shared", 0)
    taken = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - shared
    return {"taken": taken, "free": available()}
