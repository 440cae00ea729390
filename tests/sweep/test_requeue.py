"""A job that ends asks SLURM to be queued again, also where SLURM has too much to do."""

import os
import signal
from pathlib import Path

import pytest
from processes import planned

from dl2pa import __main__ as program
from dl2pa.errors import Stopped
from dl2pa.folder import RunFolder, State
from dl2pa.sweep import slurm


def ended_by_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int) -> tuple[RunFolder, Stopped, int]:
    """A run that got SIGUSR2, what came of it, and how often scontrol was asked, which refuses so many times."""
    asked = tmp_path / "asked"
    asked.write_text("")
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n[ $(wc -l < {asked}) -le {refusals} ] || exit 0\n'
        "echo 'slurm_update error: Resource temporarily unavailable' >&2\nexit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "LAST_PAUSES", (0, 0, 0))
    folder = planned("seed=0", f"runs_dir={tmp_path / 'runs'}")
    folder.write_job("7")

    def notice(_: RunFolder) -> None:
        raise Stopped("stopped by SIGUSR2, nothing lost", signal.SIGUSR2)

    monkeypatch.setattr(program, "_run", notice)
    with pytest.raises(Stopped) as caught:
        program.run_folders([str(folder.path)])
    lines = asked.read_text().splitlines()
    assert set(lines) == {"requeue 7"}
    return folder, caught.value, len(lines)


def test_a_refusal_is_not_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, stopped, asked = ended_by_notice(tmp_path, monkeypatch, refusals=3)
    assert asked == 4
    assert str(stopped) == "stopped by SIGUSR2, nothing lost"
    assert folder.error() is None


def test_a_job_that_cannot_be_queued_again_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its run is failed, which `retry --failed` takes up, not lost without a word."""
    folder, stopped, asked = ended_by_notice(tmp_path, monkeypatch, refusals=9)
    assert asked == 4
    assert str(stopped) == (
        "stopped by SIGUSR2, nothing lost; its job could not be queued again (scontrol: slurm_update error: Resource "
        "temporarily unavailable)"
    )
    assert folder.state({"7": "COMPLETED"}) is State.failed
    assert (folder.error() or {})["message"] == str(stopped)
