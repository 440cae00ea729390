"""Which processes of a SLURM job queue it again, and by which name."""

import pytest

from dl2pa.sweep import slurm

ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "9"}, "9"),
        ({"SLURM_JOB_ID": "9", **ARRAY}, "7_2"),
        ({"SLURM_JOB_ID": "9", "SLURM_PROCID": "0"}, "9"),
        ({"SLURM_JOB_ID": "9", "SLURM_PROCID": "1"}, None),
        (ARRAY, None),  # a run beside others in a task: the task waits for all of them
        ({}, None),
    ],
)
def test_who_queues_a_job_again(environment: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def ask(*command: str, seconds: float) -> str:
        asked.append(command)
        return f"JobId=9 JobState=RUNNING PreemptTime={'None' if job is None else '2026-01-01T00:00:00'}"

    for name in ("SLURM_JOB_ID", "SLURM_PROCID", *ARRAY):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "_ask", ask)
    assert slurm.preempted() is slurm.requeue() is (job is not None)
    assert asked == (
        [] if job is None else [("scontrol", "--oneliner", "show", "job", job), ("scontrol", "requeue", job)]
    )
