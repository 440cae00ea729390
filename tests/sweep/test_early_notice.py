"""SLURM's notices to a task that still starts, which are kept until the run listens, or has nothing left to save."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SECONDS, planned

from dl2pa.folder import State

_TASK = """\
import os, signal, sys
from dl2pa.sweep import slurm

become = os.execv

def execv(*arguments):
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    become(*arguments)

os.execv = execv
slurm.become_run(sys.argv[2:])
"""


@pytest.mark.parametrize("notice", ["SIGUSR2", "SIGTERM"])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_task_that_is_told_before_it_listens(tmp_path: Path, runs: int, notice: str) -> None:
    folders = [planned(f"seed={seed}", "device=cpu", f"runs_dir={tmp_path}") for seed in range(runs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = subprocess.run(
        [sys.executable, "-c", _TASK, notice, *(str(folder.path) for folder in folders)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 1, ended.stdout
    assert f"stopped by {notice}" in ended.stdout
    assert [folder.state() for folder in folders] == [State.planned] * runs
    assert [folder.error() for folder in folders] == [None] * runs


def test_a_task_that_is_told_when_all_is_done(tmp_path: Path) -> None:
    """Its job is completed, not failed."""
    folders = [planned(f"seed={seed}", "device=cpu", "epochs=1", f"runs_dir={tmp_path}") for seed in (0, 1)]
    task = (
        "import os, signal, sys; from dl2pa.__main__ import main; main(['run', *sys.argv[1:]]); "
        "os.kill(os.getpid(), signal.SIGUSR2)"
    )
    ended = subprocess.run([sys.executable, "-c", task, *(str(folder.path) for folder in folders)], timeout=SECONDS)
    assert ended.returncode == 0
    assert [folder.state() for folder in folders] == [State.finished] * 2
