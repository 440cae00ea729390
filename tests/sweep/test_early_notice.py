"""SLURM's notice (SIGUSR2) to a task that still starts: it is kept until the run listens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from processes import ROOT, SECONDS

from dl2pa import config
from dl2pa.folder import RunFolder, State

_TASK = """\
import os, signal, sys
from dl2pa.sweep import slurm

become = os.execv

def execv(*arguments):
    os.kill(os.getpid(), signal.SIGUSR2)
    become(*arguments)

os.execv = execv
slurm.become_run(sys.argv[1:])
"""


@pytest.mark.parametrize("runs", [1, 2])
def test_a_task_that_is_told_before_it_listens(tmp_path: Path, runs: int) -> None:
    config.register()
    folders = []
    for seed in range(runs):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", overrides=[f"seed={seed}", "device=cpu", f"runs_dir={tmp_path}"])
        folders.append(RunFolder.of(cfg))
        folders[-1].plan(cfg)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = subprocess.run(
        [sys.executable, "-c", _TASK, *(str(folder.path) for folder in folders)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 1, ended.stdout
    assert "stopped by SIGUSR2" in ended.stdout
    assert [folder.state() for folder in folders] == [State.planned] * runs
    assert [folder.error() for folder in folders] == [None] * runs
