"""watch while the scheduler does not always answer."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from processes import planned

from dl2pa.errors import Stopped, UserError
from dl2pa.folder import State
from dl2pa.lease import Holder
from dl2pa.sweep import executors, record, slurm, verbs
from dl2pa.sweep.record import Record

BUSY = slurm.BusyError("squeue: Socket timed out")
GONE = UserError("squeue: SLURM does not answer ([Errno 2] No such file or directory: 'squeue')")


@pytest.mark.parametrize(
    ("answers", "pauses", "ends"),
    [
        (["RUNNING", "COMPLETED"], [5], None),
        (["RUNNING", BUSY, BUSY, "RUNNING", BUSY, "COMPLETED"], [5, 5, 10, 5, 5], None),
        ([BUSY] * 7, [5, 10, 20, 40, 80, 160], BUSY),
        ([GONE], [], GONE),
    ],
)
def test_what_watch_makes_of_answers(
    answers: list[str | UserError],
    pauses: list[float],
    ends: UserError | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    folder.write_job("1")
    left, paused = list(answers), []

    def queue() -> dict[str, str]:
        answer = left.pop(0)
        if isinstance(answer, UserError):
            raise answer
        return {"1": answer}

    monkeypatch.setattr(slurm, "queue", queue)
    monkeypatch.setattr(executors, "_pause", lambda seconds, stop: paused.append(seconds))
    if ends is None:
        executors.watch([folder])
    else:
        with pytest.raises(UserError) as raised:
            executors.watch([folder])
        assert raised.value is ends
    assert not left
    assert paused == pauses
    outages = sum(
        later is BUSY and earlier is not BUSY for earlier, later in zip(["", *answers], answers, strict=False)
    )
    assert capsys.readouterr().out.count("asking again") == outages


def test_a_run_that_waits_for_a_slot_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is not there yet, or still imports: all that shows that it is going to be is the pool."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    executors.watch([folder])  # nobody has it in hand
    record.write(tmp_path, Record("mine", [folder.key], pools=[Holder.this_process()]))
    paused: list[float] = []

    def pause(seconds: float, stop: object) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            folder.write_result({"top1": 1.0})

    monkeypatch.setattr(executors, "_pause", pause)
    executors.watch([folder])
    assert len(paused) == 2


def test_what_ends_the_watching_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that waits for a sweep is not to go on as if that had ended."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    folder.write_job("1")
    monkeypatch.setattr(slurm, "queue", lambda: {"1": "PENDING"})
    monkeypatch.setattr(slurm.Resources, "check", lambda self: None)
    monkeypatch.setattr(executors, "_pause", lambda seconds, stop: os.kill(os.getpid(), signal.SIGTERM))
    assert executors.watch([folder]) is signal.SIGTERM
    with pytest.raises(Stopped, match="what is queued or running goes on"):
        verbs.watch([str(tmp_path)])
    with pytest.raises(Stopped, match="what is queued or running goes on; the same command waits") as stopped:
        executors.work_off(tmp_path, Record("mine", [folder.key], "slurm"), [], wait=True)
    assert stopped.value.code != 0


def test_a_finished_run_needs_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a runs_dir was copied to a machine without SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    folder.write_job("1")
    with pytest.raises(UserError, match="squeue: SLURM does not answer"):
        executors.queue_of([folder])
    folder.write_result({"top1": 1.0})
    assert executors.queue_of([folder]) is None


def test_a_failed_run_that_waits_for_a_slot_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error stays until it is begun again."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    folder.write_error("of an earlier attempt")
    os.utime(folder.path / "error.json", (0, 0))
    record.write(tmp_path, Record("mine", [folder.key], pools=[Holder.this_process()]))
    monkeypatch.setattr(executors, "_pause", lambda seconds, stop: folder.write_result({"top1": 1.0}))
    verbs.watch([str(tmp_path)])
    assert folder.finished()


def test_what_has_not_finished_ends_the_watching_with_an_error(tmp_path: Path) -> None:
    """`watch runs && report runs` reports nothing of which a run failed."""
    runs = [planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1)]
    runs[0].write_result({"top1": 1.0})
    runs[1].write_error(ValueError("broken"))
    with pytest.raises(UserError, match=rf"failed: {runs[1].path}: broken\n1 of 2 runs did not finish"):
        verbs.watch([str(tmp_path)])


def test_a_run_that_failed_in_its_pool_is_not_waited_for(tmp_path: Path) -> None:
    """Before it had its folder, so that it never had a holder."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    folder.write_error("of an earlier attempt")
    pool = Holder.this_process()
    os.utime(folder.path / "error.json", (0, pool.began() - 1))
    record.write(tmp_path, Record("mine", [folder.key], pools=[pool]))
    assert record.in_hand([folder]) == {folder.key}
    folder.write_error("broken installation")
    assert record.in_hand([folder]) == set()


def test_what_a_scheduler_refuses_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a run that could not be submitted again is still there to be read, and retry finds the run."""
    runs = [planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1)]
    for number, folder in enumerate(runs):
        folder.write_error(ValueError(f"broken {number}"))

    def submit(*_: object) -> Iterator[str]:
        yield "7"
        raise UserError("sbatch: error: QOSMaxSubmitJobPerUserLimit")

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm.Resources, "check", lambda self: None)
    before = runs[1].error()
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        executors.work_off(tmp_path, Record("mine", [run.key for run in runs], "slurm"), runs, wait=False)
    assert [folder.job() for folder in runs] == ["7", None]
    assert [folder.error() for folder in runs] == [None, before]
    assert runs[1].state() is State.failed


def test_a_run_that_its_pool_has_let_go_is_not_waited_for(tmp_path: Path) -> None:
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    pool = Holder.this_process()
    record.write(tmp_path, Record("mine", [folder.key], pools=[replace(pool, started=pool.started - 1)]))
    assert record.in_hand([folder]) == {folder.key}
    with folder.claimed():
        pass
    assert record.in_hand([folder]) == set()
