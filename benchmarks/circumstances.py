"""What a benchmark prints first: how, when, with which code and on what it measures."""

import datetime
import os
import shlex
import sys
from pathlib import Path

import torch

from dl2pa.device import hardware, resolve_device
from dl2pa.revision import revision

SETTINGS = ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def told() -> str:
    """In a line: command, with the settings that matter to it, date, revision of the code, processor or GPU with its
    capability, threads, torch.
    """
    settings = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    command = shlex.join([*settings, "python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    device = hardware(resolve_device("auto"))
    return (
        f"`{command}`, {datetime.date.today()}, revision {revision()}, {device}, {threads}, torch {torch.__version__}"
    )
