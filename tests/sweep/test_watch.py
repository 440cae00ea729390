"""watch while the scheduler does not always answer."""

from dataclasses import replace
from pathlib import Path

import pytest
from processes import planned

from dl2pa.errors import UserError
from dl2pa.lease import Holder
from dl2pa.sweep import executors, record, slurm
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
    record.write(tmp_path, Record("mine", [record.key(folder)], pools=[Holder.this_process()]))
    paused: list[float] = []

    def pause(seconds: float, stop: object) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            folder.write_result({"top1": 1.0})

    monkeypatch.setattr(executors, "_pause", pause)
    executors.watch([folder])
    assert len(paused) == 2


def test_a_run_that_its_pool_has_let_go_is_not_waited_for(tmp_path: Path) -> None:
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    pool = Holder.this_process()
    record.write(tmp_path, Record("mine", [record.key(folder)], pools=[replace(pool, started=pool.started - 1)]))
    assert record.in_hand([folder]) == {record.key(folder)}
    with folder.claimed():
        pass
    assert record.in_hand([folder]) == set()
